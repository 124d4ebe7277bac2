"""Weights that are saved as parts (pruning, weight and spectral normalization of torch.nn.utils) become one tensor each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from auditor.kit.wording import counted, listed, shown


class _Form(NamedTuple):
    """``endings``: how the names of the parts end, after the module's and the parameter's; ``whole`` makes the parameter."""

    title: str
    endings: tuple[str, ...]
    whole: Callable[..., Tensor | None]


def _pruned(weight: Tensor, mask: Tensor) -> Tensor | None:
    return weight * mask.to(weight.dtype) if weight.shape == mask.shape else None


def _weight_norm(g: Tensor, v: Tensor) -> Tensor | None:
    """w = g v / ||v|| (Salimans and Kingma 2016, equation 2); the norm is over the dimensions that ``g`` does not have."""
    if g.dim() == 0:
        return v * (g / v.norm())
    if g.dim() != v.dim() or any(a not in (1, b) for a, b in zip(g.shape, v.shape, strict=True)):
        return None
    over = [place for place, size in enumerate(g.shape) if size == 1]
    return v * (g / torch.linalg.vector_norm(v, dim=over, keepdim=True)) if over else None


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    """w / (u W v), as in evaluation mode, where no power iteration is made (Miyato et al. 2018, equation 8)."""
    for place in dict.fromkeys((0, 1)):  # a transposed convolution has its outputs second
        if weight.dim() > place and weight.shape[place] == u.numel() and weight.numel() == u.numel() * v.numel():
            matrix = weight.movedim(place, 0).flatten(1)
            return weight / torch.dot(u.to(weight.dtype), matrix @ v.to(weight.dtype))
    return None


_FORMS = (
    _Form("spectral normalization", ("_orig", "_u", "_v"), _spectral_norm),
    _Form("pruning", ("_orig", "_mask"), _pruned),
    _Form("weight normalization", ("_g", "_v"), _weight_norm),
)
"""The older functions of torch.nn.utils: ``weight_orig`` stands next to its parts. Spectral first: it has an ``_orig`` too."""

_PARAMETRIZATIONS = (
    _Form("spectral normalization", ("original", "0._u", "0._v"), _spectral_norm),
    _Form("weight normalization", ("original0", "original1"), _weight_norm),
)
"""torch.nn.utils.parametrizations: the parts of ``weight`` are under ``parametrizations.weight``."""

_PARAMETRIZED = re.compile(r"(?P<module>(?:.+\.)?)parametrizations\.(?P<name>\w+)\.(?P<part>original0?)")


def resolve(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with their parts put together by the arithmetic of torch.nn.utils, in the place of the first part; and what was
    done. Parts that do not go together, or that the architecture itself has, stay as they are.
    """
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    done: dict[str, list[str]] = {}
    for key, tensor in tensors.items():
        if key in used:
            continue
        name, form, parts = _parts(key, tensors)
        free = form is not None and key not in expected and name not in tensors
        whole = _whole(form, [tensors[part] for part in parts]) if form is not None and free else None
        if form is None or whole is None:
            result[key] = tensor
            continue
        result[name] = whole
        used.update(parts)
        done.setdefault(form.title, []).append(name)
    result = {key: tensor for key, tensor in result.items() if key not in used}
    notes = [
        f"{counted(len(names), 'tensor')} put together from the parts of {title}: {listed([shown(name) for name in names])}."
        for title, names in done.items()
    ]
    return result, notes


def _parts(key: str, tensors: Mapping[str, Tensor]) -> tuple[str, _Form | None, list[str]]:
    """The parameter that a tensor is a part of, the form, and the names of all parts; no form for any other tensor."""
    if found := _PARAMETRIZED.fullmatch(key):
        stem = key.removesuffix(found["part"])
        if any(other.startswith(f"{stem}1.") for other in tensors):  # several, one after the other
            return "", None, []
        for form in _PARAMETRIZATIONS:
            parts = [f"{stem}{ending}" for ending in form.endings]
            if all(part in tensors for part in parts):
                return f"{found['module']}{found['name']}", form, parts
        return "", None, []
    for form in _FORMS:
        for ending in form.endings:
            if key.endswith(ending):
                name = key.removesuffix(ending)
                parts = [f"{name}{other}" for other in form.endings]
                if all(part in tensors for part in parts):
                    return name, form, parts
    return "", None, []


def _whole(form: _Form, parts: list[Tensor]) -> Tensor | None:
    if any(part.layout != torch.strided or part.is_quantized or part.device.type != "cpu" for part in parts):
        return None
    if not parts[0].is_floating_point():
        return None
    original = parts[1] if form.whole is _weight_norm else parts[0]
    whole = form.whole(*(part.detach().to(torch.promote_types(part.dtype, torch.float32)) for part in parts))
    return None if whole is None else whole.to(original.dtype)
