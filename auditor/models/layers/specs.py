"""Layer specs: the layers of a feed-forward network as data; each spec makes its module for the shape it meets."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import nn

from auditor.models.layers.fields import (
    Count,
    Epsilon,
    Given,
    Padding,
    PaddingOrWord,
    Pair,
    Shape,
    agree,
    by,
    fits,
    image_shape,
    shape_text,
)


class LayerSpec(BaseModel):
    """One layer. ``make`` gives its module for an input of a shape; the fields have PyTorch's names and defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    modules: ClassVar[tuple[Callable[..., nn.Module], ...]]
    type: str
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,7}$",
        max_length=64,
        description="Name of its tensors, with dots where it lies in a Sequential (features.0); left out: its place in the list, "
        "from 0.",
    )

    def make(self, shape: Shape) -> nn.Module:
        """The module for inputs of this shape. Raises ValueError when the layer cannot take them."""
        return self.modules[0](**self.arguments())

    def arguments(self) -> dict[str, Any]:
        """The fields, as arguments of the module."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in ("type", "name")}


class Conv(LayerSpec):
    type: Literal["conv"] = "conv"
    modules: ClassVar = (nn.Conv2d,)
    out_channels: Count
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: PaddingOrWord = (0, 0)
    dilation: Pair = (1, 1)
    groups: Count = 1
    bias: bool = True
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros"
    in_channels: Given = None

    def make(self, shape: Shape) -> nn.Module:
        channels = image_shape(shape)[0]
        agree("in_channels", self.in_channels, channels, "channels")
        if channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups is {self.groups}, which must divide both {channels} channels in and {self.out_channels} out"
            )
        if self.padding == "same" and self.stride != (1, 1):
            raise ValueError(f'padding "same" needs stride 1, got {by(self.stride)}')
        if self.padding != "same":
            padding = (0, 0) if self.padding == "valid" else self.padding
            fits("kernel", shape, self.kernel_size, padding, self.dilation)
        return nn.Conv2d(**{**self.arguments(), "in_channels": channels})


class Linear(LayerSpec):
    type: Literal["linear"] = "linear"
    modules: ClassVar = (nn.Linear,)
    out_features: Count | None = Field(None, description="Left out: the number of classes.")
    bias: bool = True
    in_features: Given = None

    def make(self, shape: Shape) -> nn.Module:
        if len(shape) != 1:
            raise ValueError("it takes a flat vector; put a flatten layer before it")
        agree("in_features", self.in_features, shape[0], "values")
        if self.out_features is None:
            raise ValueError("out_features is not given")
        return nn.Linear(shape[0], self.out_features, bias=self.bias)


class BatchNorm(LayerSpec):
    type: Literal["batch_norm"] = "batch_norm"
    modules: ClassVar = (nn.BatchNorm2d, nn.BatchNorm1d)
    eps: Epsilon = 1e-5
    momentum: float = Field(0.1, ge=0, le=1)
    affine: bool = True
    num_features: Given = None

    def make(self, shape: Shape) -> nn.Module:
        agree("num_features", self.num_features, shape[0], "channels" if len(shape) == 3 else "values")
        module = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
        return module(shape[0], eps=self.eps, momentum=self.momentum, affine=self.affine)


class GroupNorm(LayerSpec):
    type: Literal["group_norm"] = "group_norm"
    modules: ClassVar = (nn.GroupNorm,)
    num_groups: Count
    eps: Epsilon = 1e-5
    affine: bool = True
    num_channels: Given = None

    def make(self, shape: Shape) -> nn.Module:
        agree("num_channels", self.num_channels, shape[0], "channels")
        if shape[0] % self.num_groups:
            raise ValueError(f"num_groups is {self.num_groups}, which does not divide {shape[0]} channels")
        return nn.GroupNorm(**{**self.arguments(), "num_channels": shape[0]})


class LayerNorm(LayerSpec):
    type: Literal["layer_norm"] = "layer_norm"
    modules: ClassVar = (nn.LayerNorm,)
    normalized_shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=3)] | Count | None = Field(
        None, description="The last dimensions, over which it normalizes; left out: all."
    )
    eps: Epsilon = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def make(self, shape: Shape) -> nn.Module:
        over = self.normalized_shape or shape
        over = (over,) if isinstance(over, int) else over
        if shape[-len(over) :] != over:
            raise ValueError(f"normalized_shape is {shape_text(over)}, which are not the last dimensions of the input")
        return nn.LayerNorm(**{**self.arguments(), "normalized_shape": over})


class Relu(LayerSpec):
    type: Literal["relu"] = "relu"
    modules: ClassVar = (nn.ReLU,)


class LeakyRelu(LayerSpec):
    type: Literal["leaky_relu"] = "leaky_relu"
    modules: ClassVar = (nn.LeakyReLU,)
    negative_slope: float = Field(0.01, ge=0, le=1)


class Elu(LayerSpec):
    type: Literal["elu"] = "elu"
    modules: ClassVar = (nn.ELU,)
    alpha: float = Field(1.0, gt=0, le=100)


class Gelu(LayerSpec):
    type: Literal["gelu"] = "gelu"
    modules: ClassVar = (nn.GELU,)
    approximate: Literal["none", "tanh"] = "none"


class Silu(LayerSpec):
    type: Literal["silu"] = "silu"
    modules: ClassVar = (nn.SiLU,)


class Sigmoid(LayerSpec):
    type: Literal["sigmoid"] = "sigmoid"
    modules: ClassVar = (nn.Sigmoid,)


class Tanh(LayerSpec):
    type: Literal["tanh"] = "tanh"
    modules: ClassVar = (nn.Tanh,)


class Softplus(LayerSpec):
    type: Literal["softplus"] = "softplus"
    modules: ClassVar = (nn.Softplus,)
    beta: float = Field(1.0, gt=0, le=1e4)
    threshold: float = Field(20.0, ge=0, le=1e4)


class _Pool(LayerSpec):
    kernel_size: Pair
    stride: Pair | None = Field(None, description="Left out: as the kernel.")
    padding: Padding = (0, 0)
    ceil_mode: bool = False

    def make(self, shape: Shape) -> nn.Module:
        image_shape(shape)
        if any(2 * pad > side for pad, side in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"padding {by(self.padding)} is more than half of the window {by(self.kernel_size)}")
        arguments = self.arguments()
        if not self.ceil_mode:
            fits("window", shape, self.kernel_size, self.padding, arguments.get("dilation", (1, 1)))
        return self.modules[0](**arguments)


class MaxPool(_Pool):
    type: Literal["max_pool"] = "max_pool"
    modules: ClassVar = (nn.MaxPool2d,)
    dilation: Pair = (1, 1)


class AvgPool(_Pool):
    type: Literal["avg_pool"] = "avg_pool"
    modules: ClassVar = (nn.AvgPool2d,)
    count_include_pad: bool = True


class AdaptiveAvgPool(LayerSpec):
    type: Literal["adaptive_avg_pool"] = "adaptive_avg_pool"
    modules: ClassVar = (nn.AdaptiveAvgPool2d,)
    output_size: Pair = (1, 1)

    def make(self, shape: Shape) -> nn.Module:
        image_shape(shape)
        return super().make(shape)


class Flatten(LayerSpec):
    type: Literal["flatten"] = "flatten"
    modules: ClassVar = (nn.Flatten,)


class Dropout(LayerSpec):
    """Does nothing in a model under audit; it counts when the model is trained."""

    type: Literal["dropout"] = "dropout"
    modules: ClassVar = (nn.Dropout, nn.Dropout2d)
    p: float = Field(0.5, ge=0, lt=1)
    whole_channels: bool = Field(False, description="Drops whole channels of an image (Dropout2d).")

    def make(self, shape: Shape) -> nn.Module:
        return nn.Dropout2d(self.p) if self.whole_channels and len(shape) == 3 else nn.Dropout(self.p)


class Identity(LayerSpec):
    type: Literal["identity"] = "identity"
    modules: ClassVar = (nn.Identity,)


Activation = Relu | LeakyRelu | Elu | Gelu | Silu | Sigmoid | Tanh | Softplus
Reshaping = MaxPool | AvgPool | AdaptiveAvgPool | Flatten | Dropout | Identity
_Spec = Conv | Linear | BatchNorm | GroupNorm | LayerNorm | Activation | Reshaping
LAYERS: dict[str, type[LayerSpec]] = {layer.model_fields["type"].default: layer for layer in get_args(_Spec)}
"""Type -> layer."""


def _of_known_type(value: Any) -> Any:
    came = value.get("type", value) if isinstance(value, dict) else value
    if not isinstance(value, LayerSpec) and not (isinstance(came, str) and came in LAYERS and came is not value):
        raise ValueError(f"expected a layer with a type out of {', '.join(LAYERS)}, got {reprlib.repr(came)}")
    return value


AnyLayer = Annotated[_Spec, Field(discriminator="type"), BeforeValidator(_of_known_type)]
"""Any layer, told apart by ``type``."""
