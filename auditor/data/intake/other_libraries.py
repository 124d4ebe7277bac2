"""Which networks of timm and transformers the names of tensors may be of: a family, and its handful of sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec

from auditor.data.intake.signatures import shapes_of, weighty
from auditor.kit.errors import AuditorError
from auditor.models.architecture import ARCHITECTURES, Architecture

Shapes = Mapping[str, tuple[int, ...]]

_FIRST_PARTS = 3
"""Parts of a name among which transformers' sort of network is, behind wrappers' prefixes."""

_FAMILIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        r"dist_token",
        "",
        tuple(f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")),
    ),
    (
        r"blocks\.0\.attn\.qkv\.weight",
        r"layers\.|stages\.",
        tuple(
            f"vit_{size}_patch{patch}_224"
            for size, patches in (("tiny", (16,)), ("small", (16, 32, 8)), ("base", (16, 32, 8)), ("large", (16, 32)))
            for patch in patches
        ),
    ),
    (
        r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table",
        "",
        tuple(f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")),
    ),
    (
        r"blocks\.0\.mlp_tokens\.fc1\.weight",
        "",
        tuple(f"mixer_{size}_224" for size in ("s32", "s16", "b32", "b16", "l32", "l16")),
    ),
    (
        r"stages\.0\.blocks\.0\.mlp\.grn\.weight",
        "",
        tuple(f"convnextv2_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large")),
    ),
    (
        r"stages\.0\.blocks\.0\.conv_dw\.weight",
        r"\.grn\.",
        tuple(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "atto", "femto", "pico", "nano")),
    ),
    (
        r"conv_stem\.weight",
        "",
        (
            *(f"efficientnet_b{size}" for size in range(8)),
            *(
                "mobilenetv2_100",
                "mobilenetv3_large_100",
                "mobilenetv3_small_100",
                "efficientnet_lite0",
                "tf_efficientnetv2_s",
            ),
        ),
    ),
    (
        r"s1\.b1\.conv1\.conv\.weight",
        "",
        (
            *(f"regnetx_{size}" for size in ("002", "004", "006", "008", "016", "032")),
            *(f"regnety_{size}" for size in ("002", "004", "006", "008", "016", "032")),
        ),
    ),
    (
        r"layer1\.0\.conv1\.weight",
        "",
        (
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet26",
            "resnet18d",
            "resnet34d",
            "resnet50d",
            "seresnet50",
        ),
    ),
    (
        r"features\.denseblock1\.denselayer1\.conv1\.weight",
        "",
        ("densenet121", "densenet169", "densenet201", "densenet161"),
    ),
)
"""A name that the family has, one that it does not have, and its networks in timm, the commonest first."""


def named_elsewhere(shapes: Shapes) -> Iterator[Architecture]:
    """Networks of timm, then of transformers, with as many tensors of the same names; only where the library is installed."""
    names = [name for ending, without, sizes in _FAMILIES if _has(shapes, ending, without) for name in sizes]
    if names and find_spec("timm") is not None:
        for name in names:
            with suppress(AuditorError):
                yield from _same_names(ARCHITECTURES.build("timm", {"model": name}), shapes)
    if any("embeddings." in key or ".embedder." in key for key in shapes) and find_spec("transformers") is not None:
        for sort in dict.fromkeys(part for key in shapes for part in key.split(".")[:_FIRST_PARTS]):
            with suppress(AuditorError):
                yield from _same_names(ARCHITECTURES.build("transformers", {"model": sort}), shapes)


def _has(shapes: Shapes, pattern: str, without: str) -> bool:
    return any(re.search(rf"(^|\.){pattern}$", key) for key in shapes) and not (
        without and any(re.search(rf"(^|\.){without}", key) for key in shapes)
    )


def _same_names(candidate: Architecture, shapes: Shapes) -> Iterator[Architecture]:
    """The candidate, if each of its names ends one of the file's; a prefix of the file's or of its own is no difference."""
    names = {key.removeprefix("network.") for key in weighty(shapes_of(candidate)[1])}
    first = min(names)
    for key in shapes:
        prefix = key.removesuffix(first)
        if key.endswith(first) and all(f"{prefix}{name}" in shapes for name in names):
            yield candidate
            return
