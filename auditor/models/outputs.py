"""What a network returns, as logits: one output of several, dimensions of one dropped, one logit as two classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from auditor.kit.errors import EvaluationError, meant
from auditor.kit.wording import listed, shape_text, shown

ONE_LOGIT = "The network has one logit z: it counts as two classes with the logits (0, z), so class 1 where z > 0."

_DEPTH = 4
"""How deep containers of outputs may lie in each other."""

_MOST = 8


def logits_of(came: object, classes: int, output: str | int | None = None) -> Tensor:
    """The logits (B, classes) in what a network returned: a tensor, or a dict, tuple or record of tensors.

    ``output``: which of several, by its name (``aux``, ``heads.0``) or its number from 0; None for the only one that has the
    shape of logits, or that is called so. Raises EvaluationError where nothing has it.
    """
    tensors = dict(_tensors(came))
    name = _taken(tensors, came, classes, output)
    logits = as_logits(tensors[name], classes)
    if logits is None:
        shape = shape_text(tensors[name].shape)
        raise _misfit(classes, f"{shape} as {shown(name)}" if name else shape)
    return logits


def as_logits(tensor: Tensor, classes: int) -> Tensor | None:
    """One output as logits (B, classes): without dimensions of one, and a single logit z as (0, z) where there are two classes.
    None where it has another shape."""
    if tensor.dim() == 2 and tensor.shape[1] == classes:
        return tensor
    if tensor.dim() == 0:
        return None
    sizes = [size for size in tensor.shape[1:] if size != 1]
    if sizes == [classes]:
        return tensor.reshape(len(tensor), classes)
    if classes == 2 and not sizes:
        logit = tensor.reshape(len(tensor), 1)
        return torch.cat([torch.zeros_like(logit), logit], 1)
    return None


def one_logit(came: object, classes: int, output: str | int | None = None) -> bool:
    """Whether the logits of two classes are made of a single one. Raises EvaluationError where there are no logits."""
    tensors = dict(_tensors(came))
    tensor = tensors[_taken(tensors, came, classes, output)]
    return classes == 2 and tensor.numel() == len(tensor)


def outputs_said(came: object, classes: int, output: str | int | None = None) -> tuple[str, ...]:
    """What a reader should know of how the logits (B, classes) were taken from what a network returned."""
    tensors, logits = dict(_tensors(came)), logits_of(came, classes, output)
    taken = _taken(tensors, came, classes, output)
    said = []
    if len(tensors) > 1:
        names = _names(list(tensors))
        said.append(f"The network returns {len(tensors)} outputs ({names}); {shown(taken)} was taken for the logits.")
    if one_logit(came, classes, output):
        said.append(ONE_LOGIT)
    elif tensors[taken].dim() != 2:
        shape = shape_text(tensors[taken].shape[1:])
        said.append(
            f"The network returns {shape} for an image; the dimensions of one were dropped, which leaves {classes} logits."
        )
    whole = logits.double().logsumexp(1)
    if bool((logits <= 0).all()) and torch.allclose(whole, torch.zeros_like(whole), atol=1e-4):
        said.append(
            "The network returns log-probabilities, as after a log-softmax. They serve as logits: their softmax gives the same "
            "probabilities."
        )
    return tuple(said)


def outputs_of(came: object, output: str = "") -> dict[str, Tensor]:
    """The tensors that a network returned, by name: all, the one that is asked for by name or number, or the one called logits.

    For a network whose number of classes is not known yet. Raises EvaluationError for a name that it has not.
    """
    tensors = dict(_tensors(came))
    called = [name for name in tensors if name.rpartition(".")[2] == "logits"]
    if output:
        called = [_named(tensors, output)]
    return {called[0]: tensors[called[0]]} if len(called) == 1 else tensors


def _taken(tensors: Mapping[str, Tensor], came: object, classes: int, output: str | int | None) -> str:
    """The name of the output that holds the logits. Raises EvaluationError."""
    if output is not None:
        return _named(tensors, output)
    if len(tensors) == 1:
        return next(iter(tensors))
    fitting = [name for name, tensor in tensors.items() if as_logits(tensor, classes) is not None]
    called = [name for name in fitting if name.rpartition(".")[2] == "logits"]
    if len(found := called if len(called) == 1 else fitting) == 1:
        return found[0]
    if not fitting:
        raise _misfit(classes, _described(tensors) or type(came).__name__)
    raise EvaluationError(
        f"The network returns {len(fitting)} outputs of the shape batch x {classes}: {_names(fitting)}; expected one.",
        f"Say which holds the logits: `--output {fitting[0]}` when the model is added, 'Output' on the page, "
        f"`Classifier(..., output={fitting[0]!r})` in Python.",
    )


def _tensors(came: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name, in order; what is no tensor is passed over. The name of a lone tensor is empty."""
    if isinstance(came, Tensor):
        yield name, came
    elif depth < _DEPTH:
        for key, value in _entries(came):
            yield from _tensors(value, f"{name}.{key}" if name else key, depth + 1)


def _entries(came: object) -> list[tuple[str, object]]:
    if isinstance(came, Mapping):
        return [(str(key), value) for key, value in came.items()]
    if isinstance(came, tuple) and hasattr(came, "_fields"):
        return list(zip(map(str, came._fields), came, strict=True))
    if is_dataclass(came) and not isinstance(came, type):
        return [(field.name, getattr(came, field.name)) for field in fields(came)]
    if isinstance(came, list | tuple):
        return [(str(number), value) for number, value in enumerate(came)]
    return []


def _named(tensors: Mapping[str, Tensor], output: str | int) -> str:
    """The name of the output that is asked for by its name or its number. Raises EvaluationError."""
    names, wanted = list(tensors), str(output)
    if wanted in tensors:
        return wanted
    if wanted.isascii() and wanted.isdecimal() and int(wanted) < len(names):
        return names[int(wanted)]
    if names == [""]:
        raise EvaluationError(
            f"The network returns one tensor, and no output {shown(wanted)}.", "Leave out the output."
        )
    raise EvaluationError(
        f"The network returns no output {shown(wanted)}; it returns {_names(names)}.",
        f"{meant(wanted, names)} Give one of these names, or a number from 0 to {len(names) - 1}.".strip(),
    )


def _misfit(classes: int, came: str) -> EvaluationError:
    return EvaluationError(f"The network must return logits of shape batch x {classes}, it returned {came}.")


def _described(tensors: Mapping[str, Tensor]) -> str:
    return listed([f"{shape_text(tensor.shape)} as {shown(name)}" for name, tensor in tensors.items()], _MOST)


def _names(names: Sequence[str]) -> str:
    return listed([shown(name) for name in names], _MOST)
