"""Gallery: some samples as pictures, chosen by their place in the audit and not by how they look."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from auditor.attacking.harness.outcome import Finished
from auditor.models.classifier import Classifier, answered, predicted
from auditor.show.blocks import ImageRow
from auditor.show.pictures import amplified, picture


class Specimen(NamedTuple):
    """One attacked sample: its place in the sample table, its clean and final image (C, H, W), and the verdict."""

    position: int
    x: Tensor
    x_adv: Tensor
    fooled: bool


class Gallery:
    """Keeps the first fooled and the first resisting samples of one attack; memory does not grow with the samples."""

    def __init__(self, size: int) -> None:
        self._room = {True: size - size // 3, False: size // 3}
        self._kept: dict[bool, dict[int, Specimen]] = {True: {}, False: {}}

    def add(self, finished: Finished) -> None:
        """Offer some judged samples; the lowest positions stay, so the choice does not depend on the batch size."""
        for row, position in enumerate(finished.position.tolist()):
            fooled = bool(finished.fooled[row])
            kept = self._kept[fooled]
            if len(kept) < self._room[fooled] or (kept and position < max(kept)):
                kept[position] = Specimen(
                    position, finished.x[row].float().cpu(), finished.x_adv[row].float().cpu(), fooled
                )
                if len(kept) > self._room[fooled]:
                    del kept[max(kept)]

    def specimens(self) -> list[Specimen]:
        """Fooled ones first, each in the order of the samples."""
        return [kept[position] for kept in self._kept.values() for position in sorted(kept)]


def gallery_rows(
    classifier: Classifier, specimens: list[Specimen], labels: list[int], names: list[str]
) -> tuple[ImageRow, ...]:
    """Clean image, adversarial image and amplified difference of each specimen, with the predictions on both.

    ``labels`` and ``names`` belong to the specimens. The predictions are made again from the very images that are shown.
    """
    rows = []
    for item, label, name in zip(specimens, labels, names, strict=True):
        difference, factor = amplified(item.x_adv - item.x)
        clean, attacked = (_verdict(classifier, x) for x in (item.x, item.x_adv))
        outcome = "fooled" if item.fooled else "not fooled"
        rows.append(
            ImageRow(
                title=f"{name}: {classifier.class_name(label)}, {outcome}",
                images=(
                    picture(item.x, f"clean: {clean}", f"clean image {name}"),
                    picture(item.x_adv, f"adversarial: {attacked}", f"adversarial image {name}"),
                    picture(difference, f"difference × {factor}", f"amplified difference {name}"),
                ),
            )
        )
    return tuple(rows)


def _verdict(classifier: Classifier, x: Tensor) -> str:
    with torch.no_grad():
        logits = classifier(x[None].to(classifier.device, classifier.dtype)).double()
    name = classifier.class_name(int(predicted(logits)))
    return f"{name} ({100 * float(logits.softmax(1).amax()):.0f} %)" if bool(answered(logits).all()) else name
