"""What a test knows of a value that its type leaves open; a test that is wrong about it fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast, overload

from torch import Tensor, nn

from auditor.models.classifier import Classifier

T = TypeVar("T")


def known(value: T | None) -> T:
    """The value, which is not None."""
    assert value is not None
    return value


def typed(value: object, kind: type[T]) -> T:
    """The value, which is of this kind."""
    assert isinstance(value, kind), f"expected {kind.__name__}, got {type(value).__name__}"
    return value


def sum_of(values: Iterable[Tensor]) -> Tensor:
    """The sum of tensors, at least one; ``sum`` of none would be an int."""
    first, *others = values
    return sum(others, first)


if TYPE_CHECKING:

    class Layer(nn.Module):
        """A layer as tests read and change it; to torch, an attribute of a module is a tensor or a module."""

        weight: Tensor
        bias: Tensor
        running_mean: Tensor
        running_var: Tensor
        in_features: int
        out_channels: int

    class Layers(nn.Sequential):
        """Layers by their place, and parts of the sequence by slices."""

        @overload
        def __getitem__(self, idx: slice) -> Layers: ...

        @overload
        def __getitem__(self, idx: int) -> Layer: ...

        def __getitem__(self, idx: int | slice) -> Layer | Layers: ...

        def __iter__(self) -> Iterator[Layer]: ...


def sequence(network: nn.Module) -> Layers:
    """The layers of a network, or of a classifier's network, that is a sequence."""
    found = network.network if isinstance(network, Classifier) else network
    assert isinstance(found, nn.Sequential)
    return cast("Layers", found)
