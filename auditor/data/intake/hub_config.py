"""The entries that are read of config.json and preprocessor_config.json, as transformers and timm write them.

Entries that are not named here are of no interest, but for those of transformers, which shape the network. ``None`` stands
for an entry that is left out, and for null.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationError, WrapValidator
from pydantic.functional_validators import ModelWrapValidatorHandler

from auditor.models.architectures.transformers_models import DROPPED, FETCHED

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def _or_unknown(value: Any, validate: ModelWrapValidatorHandler[Any]) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


def _labels(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else ()
    return {key: str(label) for key, label in items if str(key).isdecimal() and len(str(key)) < 9}


Numbers = Annotated[tuple[float, ...] | None, WrapValidator(_or_unknown)]
"""Of channels; None where the entry holds something else."""
NumberedNames = Annotated[dict[int, str], BeforeValidator(_labels)]
"""The names of the numbered classes."""


class _Entries(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class PixelSize(_Entries):
    """Pixels. ``shortest_edge``: of the shorter side, whatever the other one."""

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width), where both are given."""
        return (self.height, self.width) if self.height is not None and self.width is not None else None


Sized = Annotated[
    PixelSize | int | None, BeforeValidator(lambda value: value if isinstance(value, int | dict) else None)
]  # older folders have one number, or a list that means nothing today


class Preprocessor(_Entries):
    """preprocessor_config.json: what an image processor of transformers does."""

    size: Sized = None
    crop_size: Sized = None
    do_resize: bool | None = True
    do_center_crop: bool | None = None
    crop_pct: float | None = None
    resample: int | str | None = 2
    do_rescale: bool | None = True
    rescale_factor: float = 1 / 255
    rescale_offset: bool | None = None
    do_normalize: bool | None = None
    image_mean: Numbers = None
    image_std: Numbers = None
    include_top: bool | None = None
    do_flip_channel_order: bool | None = None

    @property
    def resized(self) -> PixelSize | None:
        """The size that images are brought to before a crop; None if they are not."""
        if not self.do_resize or self.size is None:
            return None
        if isinstance(self.size, int):
            return (
                PixelSize(shortest_edge=self.size)
                if self.do_center_crop
                else PixelSize(height=self.size, width=self.size)
            )
        return self.size

    @property
    def cropped(self) -> tuple[int, int] | None:
        """(height, width) of the crop from the centre; None if there is none."""
        if not self.do_center_crop or self.crop_size is None:
            return None
        return (self.crop_size, self.crop_size) if isinstance(self.crop_size, int) else self.crop_size.sides

    @property
    def interpolation(self) -> str:
        return _RESAMPLE.get(self.resample, "bilinear") if isinstance(self.resample, int) else "bilinear"


class _ImageSize(_Entries):
    image_size: int | tuple[int, int]


class TransformersConfig(_Entries):
    """config.json of transformers. All its entries are kept, also those without a field here."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model_type: str
    id2label: NumberedNames = {}
    num_labels: int | None = None
    num_channels: int | None = None
    image_size: JsonValue = None  # read by `sides` alone: where the processor has a size, it may be anything
    auto_map: JsonValue = None
    custom_pipelines: JsonValue = None

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of an image, as the network has it. Raises ValidationError."""
        own = _ImageSize.model_validate({"image_size": self.image_size or 224}).image_size
        return (own, own) if isinstance(own, int) else own

    @property
    def code(self) -> list[str]:
        """The entries that name code of the folder's own."""
        return [name for name in ("auto_map", "custom_pipelines") if getattr(self, name)]

    @property
    def fetched(self) -> list[str]:
        """The entries that name another network, which transformers would fetch."""
        return [name for name in sorted(FETCHED) if (self.model_extra or {}).get(name)]

    @property
    def shaping(self) -> dict[str, JsonValue]:
        """The entries that shape the network."""
        kept = self.model_dump(exclude_unset=True, exclude=set(DROPPED | FETCHED | {"model_type"}))
        return dict(kept)


class PretrainedCfg(_Entries):
    """What timm knows of the published weights."""

    input_size: tuple[int, int, int] | None = None
    num_classes: int | None = None
    label_names: JsonValue = None
    tag: str | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: Numbers = None
    std: Numbers = None


class TimmConfig(_Entries):
    """config.json of timm."""

    architecture: str
    num_classes: int | None = None
    label_names: JsonValue = None
    global_pool: JsonValue = None
    model_args: dict[str, JsonValue] | None = None
    pretrained_cfg: Annotated[
        PretrainedCfg, BeforeValidator(lambda value: value if isinstance(value, dict) else {})
    ] = PretrainedCfg()
