"""Batch normalization that was fused into convolutions before a network was saved: it becomes the identity after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from auditor.data.intake.shapes import COUNTER

_LEAVES = ("weight", "bias", "running_mean", "running_var")
_WEIGHTED = (nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def following_norms(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, str]:
    """Convolution or linear layer -> the batch normalization that reads its output at once, by names.

    The network is on the meta device: images of (C, H, W) ``shape`` pass through it, and nothing is computed but shapes.
    """
    last: dict[int, str] = {}
    kept: list[Any] = []  # an id is of one object only as long as that lives
    pairs: dict[str, str] = {}
    seen: set[str] = set()

    def note_output(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            kept.append(output)
            last[id(output)] = name

        return hook

    def note_input(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if name in seen:  # used twice: two layers share it
                return
            seen.add(name)
            if args and (before := last.get(id(args[0]))) is not None:
                pairs[before] = name

        return hook

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, _WEIGHTED):
            handles.append(module.register_forward_hook(note_output(name)))
        elif isinstance(module, _NORMS) and module.affine and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(note_input(name)))
    was_training = network.training
    try:
        with torch.no_grad(), torch.device("meta"):
            network.eval()(torch.empty(2, *shape))
    except (RuntimeError, ValueError, IndexError):  # an architecture of a plug-in may not run there
        return {}
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return pairs


def without_fused(
    expected: Mapping[str, Tensor], pairs: Mapping[str, str], present: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a file has in which batch normalization was fused: ``expected`` without it, each layer before it with a bias. And the
    pairs for which that is so: none of the normalization's tensors is ``present``.
    """
    missing = {layer: norm for layer, norm in pairs.items() if not any(f"{norm}.{leaf}" in present for leaf in _LEAVES)}
    gone = {f"{norm}.{leaf}" for norm in missing.values() for leaf in (*_LEAVES, COUNTER)}
    fused: dict[str, Tensor] = {}
    for key, tensor in expected.items():
        if key in gone:
            continue
        fused[key] = tensor
        layer, _, leaf = key.rpartition(".")
        if leaf == "weight" and layer in missing:
            fused[f"{layer}.bias"] = expected[f"{missing[layer]}.bias"]
    return fused, missing


def unfused(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], pairs: Mapping[str, str], network: nn.Module
) -> dict[str, Tensor]:
    """The tensors by the names of ``expected``: each normalization of ``pairs`` adds the bias of the layer before it, and
    otherwise changes nothing, since its variance and its epsilon sum to 1.
    """
    result = dict(tensors)
    for layer, norm in pairs.items():
        bias = result.pop(f"{layer}.bias")
        if f"{layer}.bias" in expected:
            result[f"{layer}.bias"] = torch.zeros_like(bias)
        eps = network.get_submodule(norm).eps
        result[f"{norm}.weight"] = torch.ones(bias.shape)
        result[f"{norm}.bias"] = bias
        result[f"{norm}.running_mean"] = torch.zeros(bias.shape)
        result[f"{norm}.running_var"] = torch.full(bias.shape, 1 - float(eps), dtype=torch.float32)  # type: ignore[arg-type]
    return result
