"""Tensors whose names are not the architecture's: wrappers within names, fused normalization, then order, nesting and shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from auditor.data.intake.correspondence import Correspondence, correspondences
from auditor.data.intake.fused import following_norms, unfused, without_fused
from auditor.data.intake.shapes import COUNTER
from auditor.kit.wording import counted, listed, printable, shown

_WRAPPERS = frozenset({"module", "_orig_mod"})
"""Parts of names that DataParallel and torch.compile put around a module within another."""

_TRAINING = re.compile(
    r"\w{0,40}(criterion|loss|metric|accuracy)\w{0,40}|(train|val|valid|test)_acc\w{0,40}|class_weights?"
)
"""First parts of the names of what Lightning saves beside a network: weights of the classes, states of metrics."""

_PROOF = (
    "Only the accuracy on a data set proves that every tensor is in its place: vet the model on one, and compare with what it is "
    "known to reach."
)


class Fit(NamedTuple):
    """Tensors by the architecture's names, as far as they fit; the names left out; what was done; see Match for the rest."""

    tensors: dict[str, Tensor]
    left: list[str]
    notes: list[str]
    mapping: dict[str, str]
    other: dict[str, str]


def fit(
    tensors: dict[str, Tensor], network: nn.Module, shape: tuple[int, int, int], *, ordered: bool, second: bool
) -> Fit:
    """Give tensors the architecture's names, by the first way that fits; where none does they are as they came.

    ``network``: on the meta device. ``shape``: (C, H, W) of an image.
    """
    expected = network.state_dict()
    tensors, left = without_leftovers(tensors, expected)
    if _same_names(tensors, expected):
        return Fit(tensors, left, [], {}, {})
    inside = _without_wrappers(tensors)
    if inside is not None and _same_names(inside, expected):
        return Fit(inside, left, ["Wrappers ('module', '_orig_mod') were taken out of the names."], {}, {})
    pairs = following_norms(network, shape) if _may_be_fused(tensors, expected) else {}
    if pairs:
        fused, missing = without_fused(expected, pairs, tensors)
        for candidate in (tensors, inside):
            if candidate is not None and missing and _same_names(candidate, fused):
                if not _same_shapes(candidate, fused):
                    break
                return Fit(unfused(candidate, expected, missing, network), left, [_unfused(missing)], {}, {})
    if ways := _ways(tensors, expected, ordered):
        return _by_shape(tensors, left, ways, second)
    if pairs and not any(key.endswith("running_mean") for key in tensors):
        fused, missing = without_fused(expected, pairs, {})
        if ways := _ways(tensors, fused, ordered):
            found = _by_shape(tensors, left, ways[:1], second)
            whole = unfused(found.tensors, expected, missing, network)
            return found._replace(tensors=whole, notes=[_unfused(missing), *found.notes])
    return Fit(tensors, left, [], {}, {})


def _unfused(pairs: Mapping[str, str]) -> str:
    return (
        f"Batch normalization was fused into the layers before it, in {counted(len(pairs), 'place')}: it is stored as the "
        "identity, plus the bias of the fused layer."
    )


def _same_names(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return _weighty(tensors) == _weighty(expected)


def _same_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return all(tensors[key].shape == expected[key].shape for key in _weighty(expected))


def _weighty(tensors: Mapping[str, Tensor]) -> set[str]:
    return {key for key in tensors if key.rpartition(".")[2] != COUNTER}


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors by names without DataParallel's and torch.compile's parts; None where that changes nothing, or two collide."""
    renamed = {
        ".".join(part for part in key.split(".") if part not in _WRAPPERS): tensor for key, tensor in tensors.items()
    }
    return renamed if len(renamed) == len(tensors) and renamed.keys() != tensors.keys() else None


def _may_be_fused(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    def means(names: Mapping[str, Tensor]) -> int:
        return sum(key.endswith("running_mean") for key in names)

    return means(tensors) < means(expected)


def without_leftovers(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Set aside what belongs to the training and not to the network: vectors and numbers of a loss or a metric."""
    left = [
        key
        for key, tensor in tensors.items()
        if key not in expected and tensor.dim() < 2 and _TRAINING.fullmatch(key.partition(".")[0])
    ]
    return {key: tensor for key, tensor in tensors.items() if key not in left}, left


def _ways(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], ordered: bool) -> list[Correspondence]:
    return correspondences(
        {key: tensor.shape for key, tensor in tensors.items()},
        {key: tensor.shape for key, tensor in expected.items()},
        ordered=ordered,
    )


def _by_shape(tensors: Mapping[str, Tensor], left: list[str], ways: list[Correspondence], second: bool) -> Fit:
    chosen = ways[-1] if second else ways[0]
    rest = [way for way in ways if way is not chosen]
    renamed = {other: tensors[key] for key, other in chosen.names.items()}
    weighty = _weighty(tensors)
    pairs = [f"{printable(key)} -> {other}" for key, other in chosen.names.items() if key != other and key in weighty]
    matched = sum(key in weighty for key in chosen.names)
    notes = [
        f"The names do not fit the architecture; {matched:,} of {counted(len(weighty), 'tensor')} were matched {chosen.how}: "
        f"{listed(pairs)}."
    ]
    other: dict[str, str] = {}
    if rest:
        other = {
            rest[0].names[key]: name
            for key, name in chosen.names.items()
            if rest[0].names[key] != name and key in weighty
        }
        notes.append(
            f"The shapes fit in a second way as well, in which {listed([shown(key) for key in other])} "
            f"{'come' if len(other) > 1 else 'comes'} from elsewhere. Vetting on a data set compares the two; "
            f"{'the likelier' if second else 'the other'} can be chosen: "
            f"`--mapping {1 if second else 2}` on the command line, 'Mapping' on the page."
        )
    elif not chosen.sure:
        notes.append(
            "The file keeps no order of layers; layers of equal shapes were taken in the order of their names."
        )
    notes.append(_PROOF)
    return Fit(renamed, left, notes, chosen.names, other)
