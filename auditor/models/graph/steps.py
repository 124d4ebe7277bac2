"""The steps of a graph as data: a closed list of operations that each make a module.

A step takes the outputs of earlier steps (or the image, or a tensor of the graph) by name and gives one output. Shapes and
dimensions count the batch, wherever it stands; a -1 in a shape is the batch.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from auditor.models.graph import operations

MOST_DIMENSIONS = 8
_LARGEST = 100_000_000

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=200)]
Count = Annotated[int, Field(ge=1, le=_LARGEST)]
Dim = Annotated[int, Field(ge=0, lt=MOST_DIMENSIONS)]
Dims = Annotated[tuple[Dim, ...], Field(min_length=1, max_length=MOST_DIMENSIONS)]
Shape = Annotated[tuple[Annotated[int, Field(ge=-1, le=_LARGEST)], ...], Field(max_length=MOST_DIMENSIONS)]
Size = Annotated[int, Field(ge=1, le=4096)]
Pair = tuple[Size, Size]
Amount = Annotated[int, Field(ge=0, le=4096)]
Sides = tuple[Amount, Amount]
Four = tuple[Amount, Amount, Amount, Amount]
Epsilon = Annotated[float, Field(ge=0, le=1)]
Position = Annotated[int, Field(ge=0, le=_LARGEST)]


class Step(BaseModel):
    """One operation. ``make`` gives its module; the fields are the module's arguments under PyTorch's names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    module: ClassVar[Any]
    op: str
    name: Name = Field(description="Where the module lies in the network: layer1.0.conv1.")
    inputs: tuple[Name, ...] = Field(min_length=1, max_length=4096, description="Steps or tensors, or 'input'.")

    def make(self) -> nn.Module:
        """The module. Raises ValueError for values that make none."""
        made: nn.Module = type(self).module(**self.arguments())
        return made

    def arguments(self) -> dict[str, Any]:
        """The fields, as arguments of the module."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in ("op", "name", "inputs")}


class Conv(Step):
    op: Literal["conv"] = "conv"
    module: ClassVar = nn.Conv2d
    in_channels: Count | None = Field(None, description="Left out: the channels of the image.")
    out_channels: Count
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0)
    dilation: Pair = (1, 1)
    groups: Count = 1
    bias: bool = True


class Linear(Step):
    op: Literal["linear"] = "linear"
    module: ClassVar = nn.Linear
    in_features: Count
    out_features: Count | None = Field(None, description="Left out: the number of classes.")
    bias: bool = True


class _ChannelNorm(Step):
    """A norm of channels, of vectors or of maps; ``rank`` counts the dimensions of its input."""

    num_features: Count
    eps: Epsilon = 1e-5


class BatchNorm(_ChannelNorm):
    op: Literal["batch_norm"] = "batch_norm"
    rank: Literal[2, 3, 4] = 4

    def make(self) -> nn.Module:
        norm = nn.BatchNorm2d if self.rank == 4 else nn.BatchNorm1d
        return norm(self.num_features, eps=self.eps)


class _ShapeNorm(Step):
    """A norm over the last dimensions, of these sizes."""

    normalized_shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=MOST_DIMENSIONS)]
    eps: Epsilon = 1e-5


class LayerNorm(_ShapeNorm):
    op: Literal["layer_norm"] = "layer_norm"
    module: ClassVar = nn.LayerNorm
    elementwise_affine: bool = True
    bias: bool = True


class RMSNorm(_ShapeNorm):
    op: Literal["rms_norm"] = "rms_norm"
    module: ClassVar = nn.RMSNorm


class GroupNorm(Step):
    op: Literal["group_norm"] = "group_norm"
    module: ClassVar = nn.GroupNorm
    num_groups: Count
    num_channels: Count
    eps: Epsilon = 1e-5


class InstanceNorm(_ChannelNorm):
    op: Literal["instance_norm"] = "instance_norm"
    rank: Literal[3, 4] = 4

    def make(self) -> nn.Module:
        norm = nn.InstanceNorm2d if self.rank == 4 else nn.InstanceNorm1d
        return norm(self.num_features, eps=self.eps, affine=True)


class LocalResponseNorm(Step):
    op: Literal["local_response_norm"] = "local_response_norm"
    module: ClassVar = nn.LocalResponseNorm
    size: Size
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
}


class Activation(Step):
    op: Literal["activation"] = "activation"
    function: Literal[
        "hardsigmoid", "hardswish", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh"
    ]

    def make(self) -> nn.Module:
        return _ACTIVATIONS[self.function]()


class GELU(Step):
    op: Literal["gelu"] = "gelu"
    module: ClassVar = nn.GELU
    approximate: Literal["none", "tanh"] = "none"


class LeakyReLU(Step):
    op: Literal["leaky_relu"] = "leaky_relu"
    module: ClassVar = nn.LeakyReLU
    negative_slope: float = 0.01


class ELU(Step):
    op: Literal["elu"] = "elu"
    module: ClassVar = nn.ELU
    alpha: float = 1.0


class CELU(Step):
    op: Literal["celu"] = "celu"
    module: ClassVar = nn.CELU
    alpha: float = 1.0


class PReLU(Step):
    op: Literal["prelu"] = "prelu"
    module: ClassVar = nn.PReLU
    num_parameters: Count = 1


class Hardsigmoid(Step):
    op: Literal["sloped_hardsigmoid"] = "sloped_hardsigmoid"
    module: ClassVar = operations.SlopedHardsigmoid
    alpha: float
    beta: float


class Hardtanh(Step):
    op: Literal["hardtanh"] = "hardtanh"
    module: ClassVar = nn.Hardtanh
    min_val: float
    max_val: float


class Clamp(Step):
    op: Literal["clamp"] = "clamp"
    module: ClassVar = operations.Clamp
    low: float | None = None
    high: float | None = None


class Softmax(Step):
    op: Literal["softmax"] = "softmax"
    dim: Dim
    log: bool = False

    def make(self) -> nn.Module:
        return nn.LogSoftmax(self.dim) if self.log else nn.Softmax(self.dim)


class _Pool(Step):
    """A window over maps. ``pad`` (left, right, top, bottom): what is added first, where ``padding`` cannot say it."""

    padded: ClassVar[type[nn.Module]]
    kernel_size: Pair
    stride: Pair
    padding: Sides = (0, 0)
    ceil_mode: bool = False
    pad: Four = (0, 0, 0, 0)

    def make(self) -> nn.Module:
        arguments = self.arguments()
        if any(self.pad):
            return type(self).padded(**arguments)
        del arguments["pad"]
        made: nn.Module = type(self).module(**arguments)
        return made


class MaxPool(_Pool):
    op: Literal["max_pool"] = "max_pool"
    module: ClassVar = nn.MaxPool2d
    padded: ClassVar = operations.PaddedMaxPool2d
    dilation: Pair = (1, 1)


class AvgPool(_Pool):
    op: Literal["avg_pool"] = "avg_pool"
    module: ClassVar = nn.AvgPool2d
    padded: ClassVar = operations.PaddedAvgPool2d
    count_include_pad: bool = False


class GlobalPool(Step):
    op: Literal["global_pool"] = "global_pool"
    function: Literal["mean", "max"] = "mean"

    def make(self) -> nn.Module:
        return nn.AdaptiveAvgPool2d(1) if self.function == "mean" else nn.AdaptiveMaxPool2d(1)


class Upsample(Step):
    op: Literal["upsample"] = "upsample"
    module: ClassVar = nn.Upsample
    size: Pair
    mode: Literal["nearest", "bilinear"]
    align_corners: bool | None = None


class PixelShuffle(Step):
    op: Literal["pixel_shuffle"] = "pixel_shuffle"
    module: ClassVar = nn.PixelShuffle
    upscale_factor: Size


class Arithmetic(Step):
    op: Literal["arithmetic"] = "arithmetic"
    module: ClassVar = operations.Arithmetic
    function: Literal["add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "matmul"]
    number: float | None = None
    number_first: bool = False


class Elementwise(Step):
    op: Literal["elementwise"] = "elementwise"
    module: ClassVar = operations.Elementwise
    function: Literal["abs", "erf", "exp", "log", "negative", "reciprocal", "sign", "sqrt"]


class Reduce(Step):
    op: Literal["reduce"] = "reduce"
    module: ClassVar = operations.Reduce
    function: Literal["mean", "sum", "max", "min"]
    dims: Dims
    keepdim: bool


class Concat(Step):
    op: Literal["concat"] = "concat"
    module: ClassVar = operations.Concat
    dim: Dim
    batch: Dim
    rank: Annotated[int, Field(ge=1, le=MOST_DIMENSIONS)]
    held: Annotated[tuple[Annotated[int, Field(ge=0, lt=4096)], ...], Field(max_length=4096)] = ()


class Slice(Step):
    op: Literal["slice"] = "slice"
    module: ClassVar = operations.Slice
    dim: Dim
    start: Position
    stop: Position
    step: Count = 1


class Take(Step):
    op: Literal["take"] = "take"
    module: ClassVar = operations.Take
    dim: Dim
    positions: Annotated[tuple[Position, ...], Field(min_length=1, max_length=65_536)]
    single: bool = False


class Reshape(Step):
    op: Literal["reshape"] = "reshape"
    module: ClassVar = operations.Reshape
    shape: Shape


class Flatten(Step):
    op: Literal["flatten"] = "flatten"
    module: ClassVar = nn.Flatten


class Permute(Step):
    op: Literal["permute"] = "permute"
    module: ClassVar = operations.Permute
    dims: Dims


class Expand(Step):
    op: Literal["expand"] = "expand"
    module: ClassVar = operations.Expand
    shape: Shape


class Pad(Step):
    op: Literal["pad"] = "pad"
    module: ClassVar = operations.Pad
    pad: Annotated[tuple[Annotated[int, Field(ge=-4096, le=4096)], ...], Field(max_length=2 * MOST_DIMENSIONS)]
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    value: float = 0.0


class Einsum(Step):
    op: Literal["einsum"] = "einsum"
    module: ClassVar = operations.Einsum
    equation: Annotated[str, Field(pattern=r"^[a-zA-Z]{0,8}(,[a-zA-Z]{0,8}){0,2}->[a-zA-Z]{0,8}$")]


class Attention(Step):
    op: Literal["attention"] = "attention"
    module: ClassVar = operations.Attention
    scale: float


AnyStep = Annotated[
    Conv | Linear | BatchNorm | LayerNorm | RMSNorm | GroupNorm | InstanceNorm | LocalResponseNorm
    | Activation | GELU | LeakyReLU | ELU | CELU | PReLU | Hardsigmoid | Hardtanh | Clamp | Softmax | MaxPool
    | AvgPool | GlobalPool | Upsample | PixelShuffle | Arithmetic | Elementwise | Reduce | Concat | Slice
    | Take | Reshape | Flatten | Permute | Expand | Pad | Einsum | Attention,
    Field(discriminator="op"),
]  # fmt: skip
