"""Which tensor of a file is which of an architecture where names differ: by the order, the nesting and the shapes of layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from auditor.data.intake.shapes import COUNTER

Shapes = Mapping[str, Sequence[int]]
Leaves = Mapping[str, tuple[int, ...]]
MAX_DEPTH = 30
"""Parts of a name that are taken for modules within each other; networks have up to ten."""


class Correspondence(NamedTuple):
    """``names``: the architecture's name of each tensor of the file. ``how``: by what, in words. ``sure``: whether the order of
    layers with the same shapes is known; it was guessed otherwise.
    """

    names: dict[str, str]
    how: str
    sure: bool


class _Node:
    """A module: the tensors that it has itself, and the modules within it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.leaves: dict[str, tuple[int, ...]] = {}
        self.children: dict[str, _Node] = {}

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for modules with the same shapes in the same nesting, in whatever order and under whatever names; asked for when
        the tree is whole."""
        inside = sorted((child.key for child in self.children.values()), key=repr)
        return (tuple(sorted(self.leaves.items())), tuple(inside))


def correspondences(found: Shapes, expected: Shapes, *, ordered: bool) -> list[Correspondence]:
    """Every way that is likely, in order of likelihood; empty where the shapes do not fit. At most two.

    ``found``, ``expected``: shapes by name, in order. ``ordered``: whether ``found`` has the layers in the order in which they
    were defined; a safetensors file keeps none. A layer's tensors keep their own names (``weight``, ``bias``). Names come in the
    order of ``expected``.
    """
    ours, theirs = _layers(expected), _layers(found)
    if sorted(map(_plain, ours.values())) != sorted(map(_plain, theirs.values())):
        return []
    ways: list[tuple[dict[str, str], str, bool]] = []
    pairing = _Pairing(list(theirs), ordered)
    ours_tree, theirs_tree = _tree(ours), _tree(theirs)
    in_sequence = ordered and [*map(_plain, ours.values())] == [*map(_plain, theirs.values())]
    if ours_tree.key == theirs_tree.key:
        for other in (False, True):
            names, sure = pairing.of_trees(theirs_tree, ours_tree, other)
            ways.append((names, "by nesting, order and shape", sure))
    if in_sequence:
        ways.append((dict(zip(theirs, ours, strict=True)), "by order and shape", True))
    if not ways or in_sequence:
        for other in (False, True):
            names, sure = pairing.of_lists(theirs, ours, other)
            ways.append((names, "by shape; the order of the layers differs", sure and not in_sequence))
    return _different(found, expected, ways)


def _different(found: Shapes, expected: Shapes, ways: list[tuple[dict[str, str], str, bool]]) -> list[Correspondence]:
    place = {key: number for number, key in enumerate(expected)}
    result: list[Correspondence] = []
    for modules, how, sure in ways:
        names = {}
        for key in found:
            module, _, leaf = key.rpartition(".")
            if module in modules and (other := f"{modules[module]}.{leaf}".lstrip(".")) in expected:
                names[key] = other
        names = dict(sorted(names.items(), key=lambda pair: place[pair[1]]))
        if all(names != known.names for known in result):
            result.append(Correspondence(names, how, sure))
    return result[:2]


def _layers(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """The modules that have tensors, in order: path -> shape of each tensor, counters left out."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        module, _, leaf = key.rpartition(".")
        if leaf != COUNTER:
            layers.setdefault(module, {})[leaf] = tuple(shape)
    return layers


def _plain(leaves: Leaves) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted(leaves.items()))


def _tree(layers: Mapping[str, Leaves]) -> _Node:
    root = _Node("")
    for path, leaves in layers.items():
        node = root
        for part in path.split(".", MAX_DEPTH) if path else ():
            node = node.children.setdefault(part, _Node(f"{node.path}.{part}".lstrip(".")))
        node.leaves.update(leaves)
    return _without_wrappers(root)


def _without_wrappers(node: _Node) -> _Node:
    """A module that only holds one other is that other."""
    while not node.leaves and len(node.children) == 1:
        (node,) = node.children.values()
    node.children = {name: _without_wrappers(child) for name, child in node.children.items()}
    return node


class _Pairing:
    """Pairs of modules with the same shapes. Among several, ``other`` asks for the second likeliest pairs."""

    def __init__(self, order: Sequence[str], ordered: bool) -> None:
        self.ordered = ordered
        self.rank = {path: place for place, path in enumerate(order)}

    def of_trees(self, theirs: _Node, ours: _Node, other: bool) -> tuple[dict[str, str], bool]:
        names = {theirs.path: ours.path} if theirs.leaves else {}
        all_sure = True
        for key in dict.fromkeys(child.key for child in ours.children.values()):
            left = {name: child for name, child in theirs.children.items() if child.key == key}
            right = {name: child for name, child in ours.children.items() if child.key == key}
            first = {name: self._first(child) for name, child in left.items()}
            pairs, sure = self._pairs(left, right, first.__getitem__, other)
            all_sure &= sure
            for a, b in pairs:
                within, sure = self.of_trees(left[a], right[b], other)
                names |= within
                all_sure &= sure
        return names, all_sure

    def of_lists(
        self, theirs: Mapping[str, Leaves], ours: Mapping[str, Leaves], other: bool
    ) -> tuple[dict[str, str], bool]:
        names: dict[str, str] = {}
        all_sure = True
        for kind in dict.fromkeys(map(_plain, ours.values())):
            left = {name: name for name, leaves in theirs.items() if _plain(leaves) == kind}
            right = {name: name for name, leaves in ours.items() if _plain(leaves) == kind}
            pairs, sure = self._pairs(left, right, self.rank.__getitem__, other)
            all_sure &= sure
            names |= dict(pairs)
        return names, all_sure

    def _first(self, node: _Node) -> int:
        """The place in the file of the first layer within a module."""
        own = [self.rank[node.path]] if node.path in self.rank else []
        return min([*own, *(self._first(child) for child in node.children.values())])

    def _pairs(
        self, left: Mapping[str, object], right: Mapping[str, object], rank: Callable[[str], int], other: bool
    ) -> tuple[list[tuple[str, str]], bool]:
        """Modules of the same shapes, paired: by their names where these are the same, else in their order."""
        if len(left) == 1:
            return [(next(iter(left)), next(iter(right)))], True
        if left.keys() == right.keys():
            return [(name, name) for name in left], True
        in_file = sorted(left, key=rank)
        numbered = len({re.sub(r"\d+", "0", name) for name in left}) == 1
        by_number = sorted(left, key=_natural)
        if self.ordered:
            orders = [in_file, by_number] if numbered else [in_file]
        else:
            orders = [by_number] if numbered else [by_number, by_number[::-1]]
        chosen = orders[-1] if other else orders[0]
        return list(zip(chosen, right, strict=True)), self.ordered or numbered


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers within a name in their order: conv2 before conv10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name[:1000])]
