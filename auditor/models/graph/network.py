"""Graph: a network as steps by name, plain data; GraphNetwork: the module that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from auditor.models.graph.steps import AnyStep, Conv, Count, Linear, Name

INPUT = "input"
"""What steps call the image."""

MOST_STEPS = 10_000
MOST_PARAMETERS = 500_000_000
"""2 GB of float32, which is the most that one ONNX file may hold."""

MOST_VALUES = 100_000_000
"""Values that one step may give for one image: 400 MB of float32."""


Role = Literal["parameter", "buffer"]


class Held(BaseModel):
    """A tensor that the network holds outside its layers: a class token, a position embedding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    shape: Annotated[tuple[Count, ...], Field(max_length=8)]
    role: Role = Field("parameter", description="Whether training changes it.")


class Graph(BaseModel):
    """Steps in the order in which they run. ``output`` is the step that gives the logits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: Annotated[tuple[Held, ...], Field(max_length=MOST_STEPS)] = ()
    steps: Annotated[tuple[AnyStep, ...], Field(min_length=1, max_length=MOST_STEPS)]
    output: Name

    @model_validator(mode="after")
    def _is_ordered(self) -> Graph:
        known: set[str] = {INPUT}
        places = Places()
        for tensor in self.tensors:
            places.take(tensor.name)
            known.add(tensor.name)
        for step in self.steps:
            if missing := [name for name in step.inputs if name not in known]:
                raise ValueError(f"step {step.name!r} takes {missing[0]!r}, which is no earlier step")
            places.take(step.name)
            known.add(step.name)
        if self.output not in {step.name for step in self.steps}:
            raise ValueError(f"the output {self.output!r} is no step")
        return self

    def __str__(self) -> str:
        return f"{len(self.steps)} steps"

    def fitted(self, channels: int, classes: int) -> Graph:
        """The graph with what it leaves out: the channels of the image, the number of classes."""
        return self.model_copy(update={"steps": tuple(_fitted(step, channels, classes) for step in self.steps)})


def _fitted(step: AnyStep, channels: int, classes: int) -> AnyStep:
    if isinstance(step, Conv) and step.in_channels is None:
        return step.model_copy(update={"in_channels": channels})
    if isinstance(step, Linear) and step.out_features is None:
        return step.model_copy(update={"out_features": classes})
    return step


class Places:
    """Which names in a network are taken: none may be another's group, nor an attribute that PyTorch keeps for itself."""

    def __init__(self) -> None:
        self.leaves: set[str] = set()
        self.groups: set[str] = set()

    def free(self, name: str) -> bool:
        """Whether something may have this name."""
        return not self._fault(name)

    def take(self, name: str) -> None:
        """Note that something has it. Raises ValueError where it cannot."""
        if fault := self._fault(name):
            raise ValueError(fault)
        self.leaves.add(name)
        self.groups.update(_above(name))

    def _fault(self, name: str) -> str:
        if name == INPUT:
            return f"the name {INPUT!r} is that of the image"
        if name in self.leaves or name in self.groups or any(group in self.leaves for group in _above(name)):
            return f"the name {name!r} is that of another step or tensor, or lies within one"
        reserved = [part for part in name.split(".") if part in _RESERVED]
        return f"PyTorch keeps the name {reserved[0]!r} for itself" if reserved else ""


def _above(name: str) -> Iterator[str]:
    return accumulate(name.split(".")[:-1], lambda group, part: f"{group}.{part}")


class Part(nn.Module):
    """Holds the modules and tensors whose names begin alike; it computes nothing."""


class GraphNetwork(nn.Module):
    """Runs the steps of a graph, each a module by its name. (B, C, H, W) -> logits (B, K)."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        for tensor in graph.tensors:
            holder, name = self._place(tensor.name)
            values = torch.zeros(tensor.shape)
            if tensor.role == "parameter":
                holder.register_parameter(name, nn.Parameter(values))
            else:
                holder.register_buffer(name, values)
        for step in graph.steps:
            holder, name = self._place(step.name)
            holder.add_module(name, step.make())
        self._held = tuple(tensor.name for tensor in graph.tensors)
        self._plan = tuple((step.name, step.inputs) for step in graph.steps)
        last = {name: index for index, step in enumerate(graph.steps) for name in step.inputs}
        self._done: tuple[tuple[str, ...], ...] = tuple(
            tuple(name for name in dict.fromkeys(step.inputs) if last[name] == index and name != graph.output)
            for index, step in enumerate(graph.steps)
        )
        self._output = graph.output

    def forward(self, x: Tensor) -> Tensor:
        values = {INPUT: x} | {name: self._tensor(name) for name in self._held}
        for (name, inputs), done in zip(self._plan, self._done, strict=True):
            values[name] = self.get_submodule(name)(*(values[item] for item in inputs))
            for item in done:
                del values[item]
        return values[self._output]

    def _tensor(self, name: str) -> Tensor:
        holder, _, last = name.rpartition(".")
        tensor: Tensor = getattr(self.get_submodule(holder), last)
        return tensor

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds what has this name, made where it is missing, and the last part of the name."""
        *groups, last = name.split(".")
        holder: nn.Module = self
        for part in groups:
            if part not in holder._modules:
                holder.add_module(part, Part())
            holder = holder.get_submodule(part)
        return holder, last


_RESERVED = (
    frozenset(dir(nn.Module()))
    | frozenset(vars(nn.Module()))
    | {"_held", "_plan", "_done", "_output", "_tensor", "_place"}
)
"""Attributes of a module, which nothing inside one may be called."""
