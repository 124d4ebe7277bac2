"""The critical attacking route of Li et al. 2021: which neurons of each layer pass the loss on, image by image.

The last convolution's neurons are ranked by the loss gradient (eq. 3-4), those of every earlier layer by their influence on the
selected neurons of the next one (eq. 5-6), in closed form (``auditor.neural.routes.closed_form``): one forward pass, and a
backward pass through what follows the last convolution.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.neural.routes.closed_form import EdgeInfluence, IntoLayer, IntoSum, SkipInfluence
from auditor.neural.routes.derivative import Flow, Step
from auditor.neural.routes.graph import TracedNetwork

Mode = Literal["serial", "dag"]
RouteNode = Literal["conv", "bn"]


class Routes(NamedTuple):
    """The routes of a batch. ``layers``: names, input to output. For each: who is on the route, bool (B, M); scores (B, M).

    A last layer's scores are sum over positions of |dL/dZ| (eq. 3), the others' the influence on the next layer's route (eq. 5).
    """

    layers: tuple[str, ...]
    members: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]


class RouteFinder:
    """Finds routes batch by batch; the network is traced and its absolute weights are taken once.

    ``mode``: "serial" follows the longest chain of layers and passes skip connections by; "dag" counts every edge, those too.
    ``node``: a neuron's output before ("conv") or after ("bn") the normalization that follows; after it always in "dag", so
    that a skip connection has the units of the other edges. ``linear``: follow hidden linear layers too (the paper does not).
    ``left_out``: edges without a closed form, in sentences; routes begin after the last of them.
    Raises EvaluationError if fewer than two layers can be followed.
    """

    def __init__(
        self, classifier: Classifier, *, mode: Mode = "serial", node: RouteNode = "conv", linear: bool = False
    ) -> None:
        self.classifier = classifier
        self.network = TracedNetwork(classifier, linear=linear)
        fold = node == "bn" or mode == "dag"
        paths = self.network.dag() if mode == "dag" else self.network.chain(fold=fold)
        self.left_out = paths.left_out
        if len(paths.layers) < 2:
            raise EvaluationError(
                "Influence has a closed form between no two layers in a row.",
                " ".join(self.left_out) or "The network has fewer than two convolutions.",
            )
        self.places = {layer: self.network.folded(layer) if fold else layer for layer in paths.layers}
        self.sums = paths.sums
        self.edges = tuple(
            IntoLayer(self.network, edge, fold=fold) if edge.target in self.places else IntoSum(edge)
            for edge in paths.edges
        )
        passing = {edge.edge.source for edge in self.edges}
        added = {layer for layers in self.sums.values() for layer in layers}
        self.seeds = {
            self.places[layer] for layer in self.places if self.places[layer] not in passing and layer not in added
        }
        self.seeds |= {total for total in self.sums if total not in passing}

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.network.name(layer) for layer in self.places)

    @property
    def outputs(self) -> tuple[str, ...]:
        """For each layer the name of the one whose output its neurons are: itself, or the normalization after it."""
        return tuple(self.network.name(place) for place in self.places.values())

    def influences(self, x: Tensor) -> tuple[EdgeInfluence | SkipInfluence, ...]:
        """C of every edge, in the order of ``edges``, for images (B, C, H, W)."""
        run = _RouteRun(self, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        run.follow(self.classifier.normalize(x))
        return tuple(run.influences)

    def __call__(self, x: Tensor, labels: Tensor, *, width: float = 0.2) -> Routes:
        """``x``: (B, C, H, W) in [0, 1]; ``labels``: the true ones, (B,)."""
        run = _RouteRun(self, labels)
        run.follow(self.classifier.normalize(x))
        order = {node: index for index, node in enumerate(self.network.graph.nodes)}
        members: dict[fx.Node, Tensor] = {}
        scores: dict[fx.Node, Tensor] = {}
        for node in sorted([*self.places, *self.sums], key=lambda node: order[node], reverse=True):
            place = self.places.get(node, node)
            if place in self.seeds:
                direction, confidence = run.gradients[place]
                scores[node], members[node] = direction * confidence, top(direction, width)
                continue
            received = [scores[total] for total, layers in self.sums.items() if node in layers]
            received += [
                influence.onto(members[edge.edge.target].to(x.dtype))
                for edge, influence in zip(self.edges, run.influences, strict=True)
                if edge.edge.source is place
            ]
            scores[node] = torch.stack(received).sum(0)
            members[node] = top(scores[node], width)
        return Routes(
            self.layers,
            tuple(members[layer] for layer in self.places),
            tuple(scores[layer] for layer in self.places),
        )


class _RouteRun(fx.Interpreter):
    """One forward pass: measures every edge on the way, and the loss gradient at the seeds."""

    def __init__(self, finder: RouteFinder, labels: Tensor) -> None:
        super().__init__(finder.network.module, graph=finder.network.graph)
        self.finder, self.labels = finder, labels
        self.influences: list[EdgeInfluence | SkipInfluence] = [None] * len(finder.edges)  # type: ignore[list-item]
        self.flows: list[Flow] = [edge.edge.begin for edge in finder.edges]
        self.visits: dict[fx.Node, list[tuple[int, fx.Node, Step | None]]] = defaultdict(list)
        for index, edge in enumerate(finder.edges):
            path = [*edge.edge.path[1:], edge.edge.target]
            for node, source, step in zip(path, edge.edge.path, [*edge.edge.steps, None], strict=True):
                self.visits[node].append((index, source, step))
        self.leaves: dict[fx.Node, Tensor] = {}
        self.gradients: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    def follow(self, x: Tensor) -> None:
        """Run, then differentiate."""
        with torch.no_grad():
            logits = self.run(x)
        # dL/dlogits = (1 - p_y) * (q - e_y), q the softmax over the other classes: the two factors are kept apart, since
        # the first underflows on confident images, and the order of the neurons needs the second alone.
        exact = logits.detach().double()
        mine = exact.gather(1, self.labels.unsqueeze(1))
        others = exact.scatter(1, self.labels.unsqueeze(1), -torch.inf)
        direction = others.softmax(1).scatter(1, self.labels.unsqueeze(1), -1.0)
        confidence = (others.logsumexp(1, keepdim=True) - mine).sigmoid()
        found = torch.autograd.grad(logits, list(self.leaves.values()), direction.to(logits.dtype), allow_unused=True)
        for (node, leaf), gradient in zip(self.leaves.items(), found, strict=True):
            size = torch.zeros_like(leaf) if gradient is None else gradient
            self.gradients[node] = (
                size.flatten(2).abs().sum(2) if size.dim() > 2 else size.abs(),
                confidence.to(leaf.dtype),
            )

    def run_node(self, n: fx.Node) -> Any:
        for index, source, step in self.visits.get(n, ()):
            value = self.env[source].detach()
            if step is None:
                self.influences[index] = self.finder.edges[index].finish(self.flows[index], value)
            else:
                self.flows[index] = step.pass_on(self.flows[index], value)
        with torch.set_grad_enabled(bool(self.leaves)):
            value = super().run_node(n)
            if n not in self.finder.seeds:
                return value
            self.leaves[n] = value if value.requires_grad else value.detach().requires_grad_()
        with torch.enable_grad():
            return self.leaves[n].clone()  # what follows may work in place


def routes(
    classifier: Classifier,
    x: Tensor,
    labels: Tensor,
    *,
    width: float = 0.2,
    mode: Mode = "serial",
    node: RouteNode = "conv",
    linear: bool = False,
) -> Routes:
    """Instance-level routes of a batch (eq. 3-6); for many batches make one ``RouteFinder``, which takes the same options."""
    return RouteFinder(classifier, mode=mode, node=node, linear=linear)(x, labels, width=width)


def model_route(frequency: Sequence[NDArray[np.float64]], width: float = 0.3) -> list[NDArray[np.int64]]:
    """Model-level route (eq. 7-8): of each layer the neurons that are most often on the routes of images, most frequent first.

    ``frequency``: for each layer the share of images with a neuron on their route, (M,).
    """
    return [np.argsort(-shares, kind="stable")[: count_of(width, len(shares))] for shares in frequency]


def count_of(width: float, neurons: int) -> int:
    """How many neurons a share of a layer is: rounded down, at least one."""
    return max(1, int(width * neurons + 1e-9))


def top(scores: Tensor, width: float) -> Tensor:
    """Whether each neuron is among the largest share of its row, bool (B, M); ties go to the lower index."""
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, : count_of(width, scores.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
