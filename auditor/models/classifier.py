"""Classifier: the model under audit. Images in [0, 1] go in, logits come out; normalization is part of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError, MismatchError, SpecError
from auditor.models.drawing import DRAWS, Sampling, View
from auditor.models.outputs import logits_of

ChannelOrder = Literal["RGB", "BGR"]
ValueRange = Literal["0-1", "0-255"]


class Normalization(BaseModel):
    """What the network expects of its input, starting from RGB pixels in [0, 1]: (scale * channels(x) - mean) / std.

    ``mean`` and ``std`` have one entry per channel, in the network's own channel order and value range; a single
    entry serves every channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: tuple[float, ...] = Field((0.0,), min_length=1, description="Mean of each channel.")
    std: tuple[float, ...] = Field((1.0,), min_length=1, description="Standard deviation of each channel.")
    channel_order: ChannelOrder = Field("RGB", description="Order of the colour channels that the network expects.")
    value_range: ValueRange = Field(
        "0-1", description="Range of the pixels that the network expects before mean and std."
    )

    @model_validator(mode="after")
    def _std_is_positive(self) -> Normalization:
        if any(value <= 0 for value in self.std):
            raise ValueError(f"every std must be greater than 0, got {self.std}")
        return self

    def for_channels(self, channels: int) -> Normalization:
        """The same with exactly one entry per channel. Raises MismatchError if the counts do not fit."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise MismatchError(
                    f"The normalization has {len(values)} values for {name}, the input has {channels} channel(s).",
                    "Give one value per channel.",
                )
        if self.channel_order == "BGR" and channels != 3:
            raise MismatchError(f"Channel order BGR needs 3 channels, the input has {channels}.")
        mean = self.mean * channels if len(self.mean) == 1 else self.mean
        std = self.std * channels if len(self.std) == 1 else self.std
        return self.model_copy(update={"mean": mean, "std": std})

    def __str__(self) -> str:
        parts = [f"mean {' '.join(f'{v:g}' for v in self.mean)}", f"std {' '.join(f'{v:g}' for v in self.std)}"]
        return ", ".join(
            parts
            + [self.channel_order] * (self.channel_order != "RGB")
            + [self.value_range] * (self.value_range != "0-1")
        )


NORMALIZATIONS: dict[str, Normalization] = {
    "none": Normalization(),
    "imagenet": Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "cifar10": Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar10-loose": Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
    "cifar100": Normalization(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    "half": Normalization(mean=(0.5,), std=(0.5,)),
    "mnist": Normalization(mean=(0.1307,), std=(0.3081,)),
    "fashion-mnist": Normalization(mean=(0.2860,), std=(0.3530,)),
}
"""Named normalizations that a user may pick; "cifar10-loose" is the widely copied one with the too small deviations."""


def parse_normalization(text: str) -> Normalization:
    """A name of NORMALIZATIONS, or ``mean/std`` with comma-separated values: ``0.5,0.5,0.5/0.25,0.25,0.25``."""
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    mean, slash, std = text.partition("/")
    try:
        if not slash:
            raise ValueError
        return Normalization(mean=tuple(map(float, mean.split(","))), std=tuple(map(float, std.split(","))))
    except ValueError:
        raise SpecError(
            f"normalization: expected one of {', '.join(NORMALIZATIONS)}, or mean/std such as 0.5,0.5,0.5/0.25,0.25,0.25; "
            f"got {text!r}."
        ) from None


class Normalize(nn.Module):
    """The first layer of a Classifier: pixels in [0, 1], RGB, to what the network expects."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization, channels: int) -> None:
        super().__init__()
        self.normalization = normalization.for_channels(channels)
        scale = 255.0 if self.normalization.value_range == "0-255" else 1.0
        for name, values in (("mean", self.normalization.mean), ("std", self.normalization.std)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, -1, 1, 1) / scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.normalization.channel_order == "BGR":
            x = x.flip(1)
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """An image classifier, ready to be measured: eval mode, frozen weights, normalization inside.

    Call it with float images of shape (B, C, H, W) in [0, 1]; it returns logits of shape (B, K).
    ``input_shape`` is (C, H, W). ``declared_accuracy``: the model's published accuracy as a share, which vetting
    compares with what it measures. Raises MismatchError for images of another shape.

    The network is copied, so yours does not change (mode, trainable parameters, device, type) and you may train it
    further; the copy does not follow. ``copy=False`` measures the network itself, which then stays frozen and in
    evaluation mode. A network in float64 is measured in float64, one in float16 or bfloat16 in float32, with its
    weights as they are (see ``notes``). Raises SpecError for a network that cannot be copied, or has weights of another
    type.

    The network may return a dict, tuple or record of tensors: ``output`` says which holds the logits, by its name or its
    number from 0; None for the only one of their shape, or the one called logits. Dimensions of one are dropped, and a
    network with one logit z counts as two classes with the logits (0, z).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        normalization: Normalization = NORMALIZATIONS["none"],
        class_names: Sequence[str] | None = None,
        name: str = "classifier",
        declared_accuracy: float | None = None,
        output: str | int | None = None,
        copy: bool = True,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise MismatchError(
                f"A classifier has at least 2 classes, got {num_classes}.",
                "A network with one logit z counts as two classes: give num_classes=2.",
            )
        if class_names is not None and len(class_names) != num_classes:
            raise MismatchError(f"The model has {num_classes} classes, but {len(class_names)} class names were given.")
        self.name = name
        self.declared_accuracy = declared_accuracy
        self.output = output
        self.input_shape = input_shape
        self.num_classes = num_classes
        self.class_names = tuple(class_names) if class_names is not None else None
        self.normalize = Normalize(normalization, input_shape[0])
        self.network = own_copy(network) if copy else network
        self.notes = _settle_type(self.network, copy)
        self.normalize.to(*_place(self.network))
        self.sampling: Sampling | None = None
        self.requires_grad_(False)
        self.eval()

    @property
    def normalization(self) -> Normalization:
        return self.normalize.normalization

    @property
    def device(self) -> torch.device:
        return self.normalize.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.normalize.mean.dtype

    def expect(self, x: Tensor) -> None:
        """Raises MismatchError for images of another shape."""
        if x.dim() != 4 or tuple(x.shape[1:]) != self.input_shape:
            raise MismatchError(
                f"The model takes images of shape {_shape(self.input_shape)}, got {_shape(tuple(x.shape[1:]))}.",
                "Use a data set of that size, or declare the model's input size.",
            )

    @property
    def random(self) -> bool:
        """Whether its answers differ from draw to draw; a network that does is known by ``auditor.models.preflight.drawn``."""
        return self.sampling is not None

    @property
    def draws(self) -> int:
        """Draws that are averaged for one answer."""
        return self.sampling.draws if self.sampling is not None else 1

    @property
    def usual_draws(self) -> int:
        """Draws that attacks average over, and that judge an image, unless told otherwise."""
        return self.sampling.usual if self.sampling is not None else DRAWS

    def seen(self, view: View) -> Classifier:
        """The same model, looked at in another way; an attacker's view draws its own random numbers."""
        return self.sampled(self.sampling.seen(view)) if self.sampling is not None else self

    def redrawn(self, *key: object) -> Classifier:
        """The same model with its own random numbers for this key; the model itself if nothing is random."""
        return self.sampled(self.sampling.redrawn(*key)) if self.sampling is not None else self

    def sampled(self, sampling: Sampling | None) -> Classifier:
        """The same network (shared, not copied), its random numbers from this source."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.sampling = sampling
        return other

    def forward(self, x: Tensor) -> Tensor:
        self.expect(x)
        return self._answer(x) if self.sampling is None else self.sampling.answer(self._answer, x)

    def _answer(self, x: Tensor) -> Tensor:
        return self.read(self.returned(x))

    def read(self, came: object) -> Tensor:
        """The logits (B, K) in what the network returned. Raises EvaluationError where there are none."""
        return logits_of(came, self.num_classes, self.output)

    def returned(self, x: Tensor) -> object:
        """What the network itself returns for images (B, C, H, W). Raises EvaluationError where it fails."""
        x = self.normalize(x)
        try:
            return self.network(x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not str(error).strip():
                raise
            kind = str(x.dtype).removeprefix("torch.")
            raise EvaluationError(
                f"The network fails on a batch of {_shape(tuple(x.shape))} images of the type {kind}: "
                f"{str(error).strip().splitlines()[0]}",
                "It must take images of this shape, and hold no tensors of another type or on another device.",
            ) from error

    def train(self, mode: bool = True) -> Classifier:
        """A model under audit stays in eval mode, whoever asks."""
        return super().train(False)

    def with_normalization(self, normalization: Normalization) -> Classifier:
        """The same network (shared, not copied) behind another normalization."""
        return self._with(self.network, normalization)

    def with_network(self, network: nn.Module) -> Classifier:
        """Another network behind the same normalization, for the same images and classes."""
        return self._with(network, self.normalization)

    def named(self, class_names: Sequence[str] | None) -> Classifier:
        """The same network, with the data set's class names if the model has none. A class that the data set does not
        name keeps its number; if there are more names than classes, they are ignored.
        """
        if self.class_names is not None or not class_names or len(class_names) > self.num_classes:
            return self
        other = copy.copy(self)
        rest = range(len(class_names), self.num_classes)
        other.class_names = (*class_names, *(self.class_name(index) for index in rest))
        return other

    def _with(self, network: nn.Module, normalization: Normalization) -> Classifier:
        other = Classifier(
            network,
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            normalization=normalization,
            class_names=self.class_names,
            name=self.name,
            declared_accuracy=self.declared_accuracy,
            output=self.output,
            copy=False,
        )
        other.sampling = self.sampling
        other.notes = self.notes
        return other.to(self.device, self.dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Logits without a graph, checked to be finite. Raises EvaluationError."""
        with torch.no_grad():
            return finite(self(x))

    def class_name(self, index: int) -> str:
        return named_class(self.class_names, index)


NO_CLASS = -1
"""The class that a network predicts where its logits are NaN or infinite: none, so no label is met."""


def predicted(logits: Tensor) -> Tensor:
    """The class of the largest logit, int64 (B,), for logits (B, K); NO_CLASS for rows that are not finite."""
    return logits.argmax(1).masked_fill(~answered(logits), NO_CLASS)


def answered(logits: Tensor) -> Tensor:
    """For which rows of logits (B, K) all are finite, bool (B,)."""
    return logits.isfinite().all(1)


def named_class(names: Sequence[str] | None, index: int) -> str:
    """What a reader calls a class."""
    if index == NO_CLASS:
        return "no class (NaN)"
    return names[index] if names is not None else f"class {index}"


def own_copy(network: nn.Module) -> nn.Module:
    """A copy of a network that shares nothing with it. Raises SpecError if it cannot be copied."""
    known: dict[int, Tensor] = {}
    for module in network.modules():
        for value in (*vars(module).values(), *module._buffers.values()):
            # Tensors that were computed, such as the weight of weight_norm, which is computed anew before each pass.
            if isinstance(value, Tensor) and not value.is_leaf:
                known[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(network, known)
    except Exception as error:  # whatever a network holds
        raise SpecError(
            f"The network cannot be copied ({type(error).__name__}: {str(error)[:200]}).",
            "Give Classifier(..., copy=False): it then measures the network itself, which stays frozen and in evaluation mode.",
        ) from error


_NARROW = (torch.float16, torch.bfloat16)


def _settle_type(network: nn.Module, owned: bool) -> tuple[str, ...]:
    """Widen half precision, where the network is ours; returns what to tell of it. Raises SpecError."""
    kinds = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    if other := kinds - {torch.float32, torch.float64, *_NARROW}:
        raise SpecError(
            f"The network's weights are {names}; expected float32, float64, float16 or bfloat16, "
            f"got {sorted(map(str, other))[0]}.",
            "Convert it: network.float().",
        )
    if len(kinds) <= 1 and not kinds & set(_NARROW):
        return ()
    if not owned:
        raise SpecError(
            f"The network's weights are {names}, and it is measured in one type, float32 or float64.",
            "Convert it with network.float(), or let it be copied (copy=True).",
        )
    if torch.float64 in kinds:
        network.double()
        return (f"The network's weights are {names}; it was measured in float64.",)
    network.float()
    return (f"The network's weights are {names}; it was measured in float32, which holds them exactly.",)


def _place(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and type of a network's first weight; those of new tensors without one, or where it has no values yet."""
    weights = [parameter for parameter in network.parameters() if parameter.is_floating_point()]
    held = next(iter((*weights, *network.buffers())), torch.empty(0))
    device = torch.empty(0).device if held.is_meta else held.device
    return device, weights[0].dtype if weights else torch.get_default_dtype()


def finite(logits: Tensor) -> Tensor:
    """The logits themselves; raises EvaluationError when one of them is NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise EvaluationError(
            "The network returned NaN or infinite logits.",
            "A verdict on such outputs would be wrong: check the weights and the declared normalization.",
        )
    return logits


def input_gradient(total: Tensor, points: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Gradient of a number by the points; zero where the network lets none through (rounding, an array library, detach)."""
    if not total.requires_grad:
        return torch.zeros_like(points)
    (value,) = torch.autograd.grad(total, points, retain_graph=retain_graph, allow_unused=True)
    return torch.zeros_like(points) if value is None else value


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
