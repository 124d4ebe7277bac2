"""Trainee: a network that learns, and the classifier through which the rest of the library sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from auditor.hardening.learning.passes import Passes
from auditor.kit.errors import EvaluationError, SpecError, known_names
from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, watch

Precision = Literal["float32", "bf16"]
BatchNormMode = Literal["learn", "fixed"]
Fact = TypeVar("Fact")


class Features(NamedTuple):
    """Logits (B, K), and outputs of some layers by name, (B, M, ...), neurons first; all with a graph."""

    logits: Tensor
    outputs: dict[str, Tensor]


class Trainee:
    """A network in training, behind the normalization of a classifier. The network is taken as it is, not copied.

    ``classifier`` holds the same network: it sees every step. ``frozen``: modules whose parameters and statistics stay as they
    are, to the bit. ``batch_norm``: "fixed" keeps the running statistics of every normalization and normalizes by them.
    ``passes`` counts the images that went through.
    """

    def __init__(
        self,
        like: Classifier,
        network: nn.Module,
        *,
        frozen: Collection[str] = (),
        batch_norm: BatchNormMode = "learn",
        precision: Precision = "float32",
    ) -> None:
        self.classifier = like.with_network(network)
        self.network = network.requires_grad_(True)
        self.precision = precision
        self.passes = Passes()
        self._still: list[nn.Module] = []
        self._facts: dict[str, object] = {}
        for name, module in network.named_modules():
            if name in frozen:
                for value in module.parameters(recurse=False):
                    value.requires_grad_(False)
                self._still.append(module)
            elif batch_norm == "fixed" and isinstance(module, nn.modules.batchnorm._NormBase):
                self._still.append(module)
        if not self.parameters:
            raise SpecError("Nothing is left to train: every layer is frozen.", "Name an earlier layer.")
        self.network.eval()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def count(self, forwards: float = 0, backwards: float = 0) -> None:
        """Images that went through."""
        self.passes = self.passes.plus(forwards, backwards)

    def fact(self, name: str, find: Callable[[Classifier], Fact]) -> Fact:
        """Something about the network that training does not change, found out once."""
        if name not in self._facts:
            self._facts[name] = find(self.classifier)
        return cast(Fact, self._facts[name])

    @contextmanager
    def learning(self) -> Iterator[None]:
        """While inside, normalizations use the statistics of the batch and dropout drops."""
        self.network.train()
        for module in self._still:
            module.training = False
        try:
            yield
        finally:
            self.network.eval()

    def run(self, x: Tensor) -> Tensor:
        """Logits of images (B, C, H, W), float32 (B, K); not counted."""
        if self.precision == "float32":
            return self.classifier(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.classifier(x)
        return full(logits)

    def logits(self, x: Tensor) -> Tensor:
        """Logits from which a loss is made, so they count as a forward and a backward pass."""
        self.count(len(x), len(x))
        with self.learning():
            return self.run(x)

    def features(self, x: Tensor, layers: Collection[str]) -> Features:
        """The same, with the outputs of the layers named. Raises EvaluationError for a layer that did not run."""
        if not layers:
            return Features(self.logits(x), {})
        outputs: dict[str, Tensor] = {}
        ran: list[str] = []

        def keep(name: str, kind: LayerKind, type_name: str, output: Tensor) -> Tensor | None:
            ran.append(name)
            if name not in layers:
                return None
            # A layer that is kept, with nothing before it that learns, has no graph of its own.
            outputs[name] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[name].clone()  # the next layer may work in place

        with watch(self.network, keep):
            logits = self.logits(x)
        if missing := [name for name in layers if name not in outputs]:
            raise EvaluationError(f"There is no layer {missing[0]} in the network.", known_names(missing[0], ran))
        return Features(logits, outputs)

    def snapshot(self, state: dict[str, Tensor] | None = None) -> Classifier:
        """A copy as it is now, or with another state; in eval mode, frozen."""
        network = copy.deepcopy(self.network)
        if state is not None:
            network.load_state_dict(state)
        return self.classifier.with_network(network)


def full(values: Tensor) -> Tensor:
    """The values in float32 where autocast made them shorter, so a sum over them keeps its digits."""
    return values.float() if values.dtype == torch.bfloat16 else values


def before(classifier: Classifier, layer: str) -> tuple[str, ...]:
    """Modules with tensors of their own that run before a layer and not after it, by name: what is "below" it.

    Found by running one grey image. Raises SpecError if there is no such layer.
    """
    seen: list[str] = []
    found: list[int] = []
    ran: list[str] = []
    names = {module: name for name, module in classifier.network.named_modules()}

    def note(module: nn.Module, inputs: Any) -> None:
        seen.append(names[module])

    def reached(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        ran.append(name)
        if name == layer:
            found.append(len(seen))

    handles = [module.register_forward_pre_hook(note) for module in names if _own_tensors(module)]
    image = torch.full((1, *classifier.input_shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    try:
        with torch.no_grad(), watch(classifier.network, reached):
            classifier(image)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise SpecError(f"There is no layer {layer!r} in the network.", known_names(layer, ran))
    # A layer with tensors of its own was noted right before its output came.
    own = seen[found[0] - 1] == layer.split("#")[0] if found[0] else False
    earlier, later = seen[: found[0] - own], seen[found[0] - own :]
    below = dict.fromkeys(name for name in earlier if name not in later)
    # A module whose tensors another one uses without calling it (the output of nn.MultiheadAttention) goes with that one.
    unseen = {name: name.rpartition(".")[0] for name in names.values() if name not in seen}
    own_tensors = {names[module] for module in names if _own_tensors(module)}
    below |= dict.fromkeys(name for name, holder in unseen.items() if name in own_tensors and holder in below)
    return tuple(below)


def _own_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))
