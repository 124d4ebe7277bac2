"""Samples on which the network gives no answer: logits that are NaN or infinite. They are named, and count as wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.attacking.records import AttackRecord
from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.models.classifier import NO_CLASS
from auditor.models.dataset import ImageDataset

NAMED = 10
"""Samples that are named; of more the number is given."""

TOO_MANY = 0.10
"""Share of samples without an answer from which the model, not the samples, is at fault."""


def without_answer(
    dataset: ImageDataset, ids: NDArray[np.int64], answered: NDArray[np.bool_], images: NDArray[np.bool_]
) -> tuple[Flag, ...]:
    """The doubts about samples ``ids`` whose clean logits are not finite (``answered`` is false).

    ``images``: whose pixels are finite; the others are to blame themselves. Raises EvaluationError if no sample has an
    answer, since nothing could be measured.
    """
    spoilt, silent = ids[~answered & ~images], ids[~answered & images]
    if len(ids) and not answered.any():
        raise EvaluationError(
            f"The network returned NaN or infinite logits for all {len(ids)} images.",
            "The images themselves contain NaN or infinite pixels: add the data set again without them." if not len(silent)
            else "Check the weights and the declared normalization.",
        )  # fmt: skip
    flags = []
    if len(spoilt):
        flags.append(
            Flag(
                name="images not finite",
                severity=_severity(len(spoilt), len(ids)),
                message=f"{_count(len(spoilt), len(ids))} contain NaN or infinite pixels; they count as wrong.",
                evidence=sample_names(dataset, spoilt),
                remedy="Leave these images out of the data set.",
            )
        )
    if len(silent):
        flags.append(
            Flag(
                name="no answer",
                severity=_severity(len(silent), len(ids)),
                message=f"The network returns NaN or infinite logits for {_count(len(silent), len(ids))}, whose pixels are "
                "finite; they count as wrong.",
                evidence=sample_names(dataset, silent),
                remedy="Look for a division, a logarithm or an overflow in the network, and check the declared normalization.",
            )
        )
    return tuple(flags)


def without_answer_under(
    records: Iterable[AttackRecord], dataset: ImageDataset, ids: NDArray[np.int64]
) -> tuple[Flag, ...]:
    """The doubt about samples that an attack made the network give no answer for."""
    found: dict[int, str] = {}
    for record in records:
        for position, prediction, fooled in zip(record.positions, record.prediction, record.fooled, strict=True):
            if prediction == NO_CLASS and fooled:
                found.setdefault(position, record.attack.display_title())
    if not found:
        return ()
    return (
        Flag(
            name="no answer under attack",
            severity="warning",
            message=f"Attacks ({', '.join(dict.fromkeys(found.values()))}) make the network return NaN or infinite logits for "
            f"{_count(len(found), len(ids))}; these count as fooled.",
            evidence=sample_names(dataset, ids[np.array(sorted(found), np.int64)]),
            remedy="A service that returns NaN has failed, but not by predicting a wrong class: look for a division, a "
            "logarithm or "
            "an overflow in the network.",
        ),
    )


def left_out_of_analyses(dataset: ImageDataset, ids: NDArray[np.int64]) -> tuple[Flag, ...]:
    """What is said of samples whose perturbed twin gets no answer: an analysis has nothing to compare there."""
    return (
        Flag(
            name="left out of the analyses",
            severity="warning",
            message=f"The network returns NaN or infinite logits for the perturbed twins of {len(ids)} samples; the neuron-level "
            "analyses leave these samples out.",
            evidence=sample_names(dataset, ids),
            remedy="Their other numbers hold only for the remaining samples.",
        ),
    )


def sample_names(dataset: ImageDataset, ids: NDArray[np.int64] | Sequence[int]) -> str:
    """The first of these samples by name, and how many more there are."""
    names = ", ".join(dataset.sample_name(int(sample)) for sample in ids[:NAMED])
    return f"{names} and {len(ids) - NAMED} more" if len(ids) > NAMED else names


def _count(count: int, of: int) -> str:
    return f"{count} of {of} samples"


def _severity(count: int, of: int) -> Literal["warning", "severe"]:
    return "severe" if count >= TOO_MANY * of else "warning"
