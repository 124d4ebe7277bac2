"""The image classifiers of Hugging Face transformers, by their configuration; needs the optional extra ``hf``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn

from auditor.kit.errors import SpecError, nearest
from auditor.models.architecture import Architecture, check_images

REMEDY = "Install the extra: pip install 'neuron-auditor[hf]'"

DROPPED = frozenset(
    {"_name_or_path", "auto_map", "custom_pipelines", "dtype", "torch_dtype", "transformers_version"}
    | {"id2label", "label2id", "num_labels", "_attn_implementation", "attn_implementation", "_commit_hash"}
)
"""Entries of a configuration that do not shape the network, or that name code and places to fetch."""

FETCHED = frozenset({"backbone", "backbone_config", "use_timm_backbone", "use_pretrained_backbone"})
"""Entries that make transformers fetch another network."""

_MOST_ENTRIES = 2_000


def transformers_library() -> Any:
    """The package transformers. Raises SpecError when it is not installed."""
    try:
        import transformers
    except ImportError:
        raise SpecError(
            "Hugging Face image classifiers need the package transformers, which is not installed here.", REMEDY
        ) from None
    return transformers


def model_types() -> list[str]:
    """The ``model_type`` of each classifier of transformers that takes plain images. Raises SpecError without the package."""
    transformers_library()
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    return [name for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if name not in ("timm_wrapper", "perceiver")]


def _classes(model: str) -> tuple[str, ...]:
    """The classes of transformers that a sort of network has; DeiT and LeViT have a second one, which averages two heads."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model]
    return (found,) if isinstance(found, str) else tuple(found)


LOGITS = "logits"


class TransformersModel(Architecture):
    """An image classifier of Hugging Face transformers, built from its configuration; only the library's own classes are used.

    Tensor names are those in memory, with ``network.`` before them. Files of the hub may have other names, which transformers
    converts while it loads them. Needs the extra ``neuron-auditor[hf]``.
    """

    kind: Literal["transformers"] = "transformers"
    title: ClassVar[str] = "Hugging Face transformers"
    by_hand: ClassVar[bool] = False
    num_classes: int = Field(1000, ge=2, le=100_000, description="Number of classes, i.e. logits.")
    height: int = Field(224, ge=4, le=1024, description="Height of an image in pixels.")
    width: int = Field(224, ge=4, le=1024, description="Width of an image in pixels.")
    model: str = Field(
        "resnet", max_length=100, description="Sort of network: the model_type of config.json, such as vit or resnet."
    )
    config: dict[str, JsonValue] = Field(
        default_factory=dict,
        max_length=_MOST_ENTRIES,
        description="Further entries of config.json, such as hidden_sizes; the defaults of transformers for those not given.",
    )

    output: str = Field(
        LOGITS,
        max_length=100,
        exclude_if=lambda output: output == LOGITS,
        description="Which output holds the logits, by its name, such as cls_logits of a distilled network.",
    )

    @model_validator(mode="after")
    def _is_known(self) -> TransformersModel:
        try:
            types = model_types()
        except SpecError as error:
            raise ValueError(f"{error.message} {error.hint}") from None
        if self.model not in types:
            close = nearest(self.model, types, cutoff=0.5)
            hint = f"close to it: {', '.join(close)}" if close else f"it has {', '.join(types)}"
            raise ValueError(f"transformers has no image classifier {self.model[:60]!r} ({hint})")
        if fetched := [name for name in FETCHED if self.config.get(name)]:
            raise ValueError(f"the entry {fetched[0]} would fetch another network, which is not done here")
        return self

    def describe(self) -> str:
        """As Capability.describe, the configuration by the number of its entries: ``transformers:vit,...,entries=17``."""
        size = "x".join(map(str, self.input_shape))
        return f"transformers:{self.model},num_classes={self.num_classes},input={size},entries={len(self.config)}"

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError when the configuration makes no network, or one for another size."""
        with torch.device("meta"):
            outline = self._make()
            check_images(outline, self, f"transformers {self.model}")
        target = torch.get_default_device()
        return outline.train() if target.type == "meta" else self._make()

    def _make(self) -> nn.Module:
        transformers = transformers_library()
        classes = _classes(self.model)
        named = self.config.get("architectures")
        chosen = (
            next((name for name in named if name in classes), classes[0]) if isinstance(named, list) else classes[0]
        )
        entries = {
            name: value for name, value in self.config.items() if name not in DROPPED | {"model_type", "architectures"}
        }
        entries |= {"num_labels": self.num_classes, "num_channels": self.channels}
        if "image_size" in entries or self.height == self.width:
            entries["image_size"] = self.height if self.height == self.width else [self.height, self.width]
        try:
            config = transformers.AutoConfig.for_model(self.model, **entries)
            network = getattr(transformers, str(chosen))(config)
        except Exception as error:  # whatever a configuration out of a file makes of a library
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise SpecError(
                f"transformers {self.model} cannot be built from this configuration ({reason[:200]})."
            ) from None
        return LogitsOf(network, self.output)


class LogitsOf(nn.Module):
    """The logits (B, num_classes) of a transformers classifier, which answers with a record of several tensors."""

    def __init__(self, network: nn.Module, output: str = LOGITS) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, x: Tensor) -> Tensor:
        record = self.network(pixel_values=x)
        if self.output not in record:
            raise SpecError(
                f"The network has no output {self.output[:60]!r}; it has {', '.join(record)}.",
                "Name the one that holds the logits, or none.",
            )
        return cast(Tensor, record[self.output])
