"""The layers of a network as a graph: which follow each other, and what lies between two of them.

A ``TracedNetwork`` is the traced forward pass. Its nodes of interest are *places*: the output of a layer (a convolution or a
linear layer; with ``folded``, after the normalization that follows it), and, in the graph with skip connections, the sums. An
``Edge`` leads from one place to another and holds the steps between them, all of which have a local derivative in closed form
(``auditor.neural.routes.derivative``). Edges that have none are left out and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.neurons import kind_of
from auditor.models.tracing import IntPair, function_of, shapes_in, traced
from auditor.neural.routes.derivative import (
    Add,
    AvgPoolRule,
    Flow,
    MaxPoolRule,
    Pad,
    Same,
    ScaleRule,
    Step,
    Subsample,
)
from auditor.neural.routes.operations import ADDITIONS, step_of

MOST_PATHS = 5000
"""Paths that may lead into one layer before we give up; networks of hundreds of dense layers have hundreds."""


class Edge(NamedTuple):
    """From the place ``path[0]`` to ``target``: a layer (the edge ends at its input) or a sum (it ends at one of its terms).

    ``steps`` lie between the nodes of ``path``. ``begin``: the flow at the source. ``spatial``: (H, W) of the maps that arrive,
    (1, 1) for a vector, and that from before where they were flattened.
    """

    path: tuple[fx.Node, ...]
    steps: tuple[Step, ...]
    target: fx.Node
    begin: Flow
    spatial: IntPair

    @property
    def source(self) -> fx.Node:
        return self.path[0]


class Paths(NamedTuple):
    """Layers, input to output, the edges between them, and what was left out, in sentences.

    ``sums``: additions that are places of their own, with the layers of which they add the output as it is.
    """

    layers: tuple[fx.Node, ...]
    edges: tuple[Edge, ...]
    left_out: tuple[str, ...]
    sums: Mapping[fx.Node, tuple[fx.Node, ...]]


class TracedNetwork:
    """The forward pass of a classifier's network, traced, with the shape of every value for two images.

    ``linear``: whether linear layers count as layers too; if there is no convolution they always do. The layer whose output
    is the logits never counts. Raises EvaluationError if the network cannot be traced.
    """

    def __init__(self, classifier: Classifier, *, linear: bool = False) -> None:
        self.module = classifier.network
        self.graph = traced(self.module)
        self.shapes = shapes_in(classifier, self.graph)
        names = {id(module): name for name, module in reversed(list(self.module.named_modules()))}
        calls: Counter[str] = Counter()
        self.names: dict[fx.Node, str] = {}
        kinds = {}
        for node in self.graph.nodes:
            if node.op == "call_module" and (kind := kind_of(function_of(node, self.module))) is not None:
                name = names[id(self.module.get_submodule(str(node.target)))]
                calls[name] += 1
                self.names[node] = name if calls[name] == 1 else f"{name}#{calls[name]}"
                kinds[node] = kind
        convolutions = [node for node, kind in kinds.items() if kind == "conv"]
        wanted = ("conv", "linear") if linear or not convolutions else ("conv",)
        self.layers = {node for node, kind in kinds.items() if kind in wanted}
        self.layers -= {node for node in self.layers if self._gives_logits(node)}

    def folded(self, layer: fx.Node) -> fx.Node:
        """The normalization right after a layer, where nothing else uses the layer's output; else the layer."""
        users = list(layer.users)
        return users[0] if len(users) == 1 and isinstance(self._step(users[0], layer), ScaleRule) else layer

    def fold_factor(self, layer: fx.Node) -> Tensor | None:
        """|gamma| / sqrt(var + eps) of that normalization, (C,)."""
        step = None if self.folded(layer) is layer else self._step(self.folded(layer), layer)
        return step.factor.abs() if isinstance(step, ScaleRule) else None

    def chain(self, *, fold: bool = False) -> Paths:
        """The longest chain of layers, from its last break on; skip connections are passed by.

        ``fold``: a layer's place is after its normalization.
        """
        spine = self._spine()
        layers = [node for node in spine if node in self.layers]
        edges: list[Edge] = []
        left_out: list[str] = []
        for layer, target in pairwise(layers):
            place = self.folded(layer) if fold else layer
            found = self._edge(spine[spine.index(place) : spine.index(target)], target)
            if isinstance(found, str):
                left_out.append(self._sentence(layer, target, found))
                edges.clear()
            else:
                edges.append(found)
        return Paths(tuple(layers[-len(edges) - 1 :]), tuple(edges), tuple(left_out), {})

    def dag(self) -> Paths:
        """Every edge between places after normalization, skip connections into sums too.

        A layer with a way onwards that had to be left out does not belong, nor does any layer before it.
        """
        sums, owner = self._sums(), {self.folded(layer): layer for layer in self.layers}
        edges: dict[fx.Node, list[Edge]] = {place: [] for place in [*owner, *sums]}
        left_out: list[str] = []
        broken: set[fx.Node] = set()
        ends = [(layer, term) for layer in self._ordered(self.layers) for term in self._inputs(layer)]
        ends += [
            (total, term)
            for total, added in sums.items()
            for term in self._inputs(total)
            if owner.get(term) not in added
        ]
        for target, end in ends:
            for path in self._paths_to(end, set(edges)):
                found = self._edge(path, target)
                if isinstance(found, str):
                    left_out.append(self._sentence(owner.get(path[0], path[0]), target, found))
                    broken.add(path[0])
                else:
                    edges[path[0]].append(found)
        for place in self._ordered(edges)[::-1]:
            onwards = [self.folded(edge.target) if edge.target in self.layers else edge.target for edge in edges[place]]
            onwards += [total for total, layers in sums.items() if owner.get(place) in layers]
            if any(following in broken for following in onwards):
                broken.add(place)
        return Paths(
            tuple(layer for layer in self._ordered(self.layers) if self.folded(layer) not in broken),
            tuple(edge for place, leaving in edges.items() if place not in broken for edge in leaving),
            tuple(left_out),
            {total: layers for total, layers in sums.items() if total not in broken},
        )

    def _sums(self) -> dict[fx.Node, tuple[fx.Node, ...]]:
        """Additions of some layer's (normalized) output as it is, with these layers."""
        owner = {self.folded(layer): layer for layer in self.layers}
        found = {
            node: tuple(
                owner[term] for term in self._inputs(node) if term in owner and isinstance(self._step(node, term), Add)
            )
            for node in self.graph.nodes
            if node in self.shapes and function_of(node, self.module) in ADDITIONS
        }
        return {node: layers for node, layers in found.items() if layers}

    def _ordered(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """In the order of execution."""
        wanted = set(nodes)
        return [node for node in self.graph.nodes if node in wanted]

    def name(self, node: fx.Node) -> str:
        """What a reader calls a node."""
        return self.names.get(node, node.name)

    def _edge(self, path: list[fx.Node], target: fx.Node) -> Edge | str:
        """From the first node of a path by the others into the target; or why that has no closed form."""
        if self._ways(path[0], target) > 1:
            return "the first reaches the second by several ways that add up"
        steps: list[Step] = []
        if any(len(self.shapes[node]) not in (2, 4) for node in path):
            return "the maps between them have neither two dimensions nor none"
        start = self.shapes[path[0]]
        begin = Flow(slice(0, start[1]), _spatial(start))
        spatial = begin.spatial
        overlapping = False
        for source, node in pairwise(path):
            step = self._step(node, source)
            if isinstance(step, str):
                return step
            if isinstance(step, ScaleRule) and len(self.shapes[source]) == 2 and spatial != (1, 1):
                return "a normalization of flattened maps is between them"
            if overlapping and isinstance(step, MaxPoolRule | AvgPoolRule | Subsample | Pad):
                return "another change of the map's size follows a pool with overlapping windows"
            overlapping |= isinstance(step, MaxPoolRule) and step.window.overlaps
            if len(self.shapes[node]) == 4 or isinstance(step, AvgPoolRule):
                spatial = _spatial(self.shapes[node])
            steps.append(step)
        if target in self.layers:
            module = function_of(target, self.module)
            if isinstance(module, nn.modules.conv._ConvNd) and type(module) is not nn.Conv2d:
                return f"{type(module).__name__} has no closed form here"
            if (
                isinstance(module, nn.Conv2d)
                and module.padding_mode != "zeros"
                and module.padding not in ("valid", (0, 0))
            ):
                return f"the {module.padding_mode} padding lets one position reach another by two taps"
            if isinstance(module, nn.Linear) and len(self.shapes[path[-1]]) != 2:
                return "the linear layer works on each position by itself"
        elif isinstance(addition := self._step(target, path[-1]), str):
            return addition
        return Edge(tuple(path), tuple(steps), target, begin, spatial)

    def _step(self, node: fx.Node, source: fx.Node) -> Step | str:
        return step_of(node, source, self.module, self.shapes)

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        """The inputs that are tensors (or tuples of these) and depend on the image."""
        return [item for item in node.all_input_nodes if item in self.shapes]

    def _spine(self) -> list[fx.Node]:
        """The path from the image to the logits that meets most layers; of equal ones the first argument's."""
        longest: dict[fx.Node, tuple[int, fx.Node | None]] = {}
        output = None
        for node in self.graph.nodes:
            before = max(self._inputs(node), key=lambda item: longest[item][0], default=None)
            longest[node] = ((longest[before][0] if before else 0) + (node in self.layers), before)
            output = node
        path: list[fx.Node] = []
        while output is not None:
            path.append(output)
            output = longest[output][1]
        return path[::-1]

    def _ways(self, source: fx.Node, target: fx.Node) -> int:
        """How many paths lead from a place into a layer (or sum) without another layer on them."""
        ways: Counter[fx.Node] = Counter({source: 1})
        for node in self.graph.nodes:
            if node is target:
                break
            if node is not source and node not in self.layers and node in self.shapes:
                ways[node] = sum(ways[item] for item in self._inputs(node))
        return sum(ways[item] for item in self._inputs(target))

    def _paths_to(self, end: fx.Node, places: set[fx.Node]) -> Iterator[list[fx.Node]]:
        """Every path from the nearest places to ``end``, the place first."""
        open_paths, found = [[end]], 0
        while open_paths:
            path = open_paths.pop()
            if path[0] in places:
                found += 1
                yield path
                continue
            open_paths += [[item, *path] for item in reversed(self._inputs(path[0]))]
            if len(open_paths) + found > MOST_PATHS:
                raise EvaluationError("The network branches too often for its layers to be followed one by one.")

    def _gives_logits(self, layer: fx.Node) -> bool:
        """Whether nothing but a change of shape lies between a layer and the output of the network."""
        node = layer
        while len(node.users) == 1:
            user = next(iter(node.users))
            if user.op == "output":
                return True
            if not isinstance(self._step(user, node), Same):
                return False
            node = user
        return False

    def _sentence(self, source: fx.Node, target: fx.Node, reason: str) -> str:
        return f"The edge {self.name(source)} -> {self.name(target)} is left out because {reason}."


def _spatial(shape: torch.Size) -> IntPair:
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)
