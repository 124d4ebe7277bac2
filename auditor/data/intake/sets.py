"""Sets of weights: every dictionary of tensors that a checkpoint holds, and which of them is meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from auditor.data.intake.pickle_machine import RECIPE
from auditor.data.intake.pickle_values import Named, Skipped
from auditor.data.intake.storages import OddTensor, StoredTensor
from auditor.kit.errors import IntakeError
from auditor.kit.wording import listed, printable, shown

_AVERAGED_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema")
_RAW_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "params", "weights", "last")
"""Keys under which training scripts put the state dict, the first one wins: averaged weights before raw, as in timm."""

_AVERAGED = ("ema_model.module.", "ema_model.", "model_ema.module.", "model_ema.", "ema.module.", "ema.")
"""How the names of an averaged copy begin in the state dict of a module that has both, as ema_pytorch writes it."""

_WEIGHTLESS = re.compile(
    r"optimi[sz]er|^opt(im)?s?(_|$)|sched|scaler|^callbacks$|^loops$|^amp$|(^|_)rng(_|$)", re.IGNORECASE
)
"""Keys under which a training keeps tensors that are not weights: momenta, learning rates, random states."""

_SET_DEPTH = 4
"""Dictionaries around a set of weights."""

_NOTE_DEPTH = 8
"""Containers around an object that a note names."""

_MAX_CONTAINERS = 500_000
"""Containers that are looked at, each once at each depth: a training's history of 100,000 steps has fewer."""

_MAX_SETS, _MAX_IGNORED, _MAX_BESIDE = 100, 10, 1000
"""Kept for sentences, which name a few."""

_MAX_COPIES = 8
_MAX_MODULES = 100_000
_MODULE_DEPTH = 100
_QUIET = ("torch.",)

_ACTIVE = re.compile(
    r"((os|posix|nt|subprocess|shutil|socket|runpy|importlib|pty|ctypes|webbrowser|pickle|marshal|pdb)\..*|"
    r"builtins\.(eval|exec|execfile|compile|__import__|open))"
)
"""What a pickle names that runs something where the pickle is loaded; not complete, so it only makes a note."""

Stored = StoredTensor | OddTensor
T = TypeVar("T")


class WeightSet(NamedTuple):
    """Tensors by name, the keys that lead to them, the other keys of that dictionary, and the class where it is a whole model."""

    path: tuple[str, ...]
    tensors: dict[str, Stored]
    ignored: tuple[object, ...] = ()
    module: str = ""

    @property
    def name(self) -> str:
        return ".".join(self.path)


class Beside(NamedTuple):
    """An object that was not built, and the keys that lead to it."""

    path: tuple[str, ...]
    kind: str


class FoundSets(NamedTuple):
    """What a checkpoint holds."""

    root: object
    sets: tuple[WeightSet, ...]
    beside: tuple[Beside, ...]


def contents(root: object, name: str) -> FoundSets:
    """Look through what a pickle made. Raises IntakeError for one with too many containers."""
    survey = _Survey(name)
    survey.visit(root, (), may_weigh=True)
    sets = [each for each in survey.sets if _plausible(each)] or survey.sets
    return FoundSets(root, tuple(sets), tuple(survey.beside))


class _Survey:
    """What is found on the way through containers, which may hold each other, and themselves."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sets: list[WeightSet] = []
        self.beside: list[Beside] = []
        self._tensors: dict[int, dict[str, Stored]] = {}
        self._seen: set[tuple[int, int, bool]] = set()

    def visit(self, value: object, path: tuple[str, ...], *, may_weigh: bool) -> None:
        """``may_weigh``: whether no key on the way says that there are no weights below."""
        may_weigh &= len(path) <= _SET_DEPTH and len(self.sets) < _MAX_SETS
        if isinstance(value, Skipped):
            self._object(value, path, may_weigh=may_weigh)
            return
        if isinstance(value, dict) and may_weigh and (tensors := self._tensors_of(value)):
            others = (key for key, item in value.items() if key not in tensors and not isinstance(item, Skipped))
            self.sets.append(WeightSet(path, tensors, tuple(islice(others, _MAX_IGNORED))))
        place = id(value), len(path), may_weigh
        if place in self._seen or len(path) >= _NOTE_DEPTH:
            return
        self._seen.add(place)
        if len(self._seen) > _MAX_CONTAINERS:
            raise IntakeError(
                f"{shown(self.name)} holds more than {_MAX_CONTAINERS:,} containers beside tensors.", RECIPE
            )
        # {0: {"exp_avg": ...}} is how optimizers keep what they know of each parameter.
        may_weigh &= not isinstance(value, dict) or not value or not all(isinstance(key, int) for key in value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(_listed(value)):
            if (isinstance(item, dict | list | tuple) and item) or (
                isinstance(item, Skipped) and not isinstance(item, OddTensor)
            ):
                step = key if isinstance(key, str) else str(key) if isinstance(key, int) else sort_of(key)
                self.visit(item, (*path, step), may_weigh=may_weigh and not _WEIGHTLESS.search(step[:100]))

    def _object(self, value: Skipped, path: tuple[str, ...], *, may_weigh: bool) -> None:
        if is_module(value):
            if id(value) not in self._tensors:
                self._tensors[id(value)] = _module_state(value, self.name)
            if may_weigh and (tensors := self._tensors[id(value)]):
                self.sets.append(WeightSet(path, tensors, module=value.path))
                return
        if len(self.beside) < _MAX_BESIDE and not (isinstance(value, Named) and value.path.startswith(_QUIET)):
            self.beside.append(Beside(path, value.path))

    def _tensors_of(self, value: dict[object, object]) -> dict[str, Stored]:
        if id(value) not in self._tensors:
            self._tensors[id(value)] = {
                key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Stored)
            }
        return self._tensors[id(value)]


def choose(found: FoundSets, choice: str, name: str) -> tuple[WeightSet, list[str]]:
    """The set of weights that is meant, and what to tell the user. Raises IntakeError if there is no such set, or several."""
    if not found.sets:
        raise _nothing(found, name)
    taken = _chosen(found.sets, choice, name) if choice else _preferred(found.sets, name)
    notes = []
    if not choice:
        copy, start, note = averaged(taken.tensors)
        if note:
            taken = taken._replace(path=(*taken.path, start), tensors=copy)
            notes.append(note)
    if others := [other for other in found.sets if not _related(other, taken)]:
        names = ", ".join(printable(each.name) for each in (taken, *others[:4])) + (", ..." if len(others) > 4 else "")
        notes.append(
            f"The file holds several sets of weights ({names}); {shown(taken.name)} was taken."
            + ("" if choice else f" {_how_to_choose(others[0].name, 'For another')}")
        )
    if isinstance(found.root, tuple | list) and len(found.root) > 1 and not others:
        sort = sort_of(found.root)
        notes.append(f"The file holds {sort}; of its {len(found.root)} items the dictionary was taken.")
    if taken.module:
        notes.append(
            f"The file holds a whole model ({printable(taken.module)}): its weights were read as data, and nothing of it was run."
        )
    if taken.ignored:
        texts = listed([shown(key) if isinstance(key, str) else sort_of(key) for key in taken.ignored])
        notes.append(f"Beside the tensors the file holds, and we ignored: {texts}.")
    return taken, notes


def beside_notes(found: FoundSets, named: Iterable[str]) -> list[str]:
    """What a file holds beside weights, and which of it would run where others load it."""
    notes = []
    if found.beside:
        texts = list(dict.fromkeys(_beside_text(each) for each in found.beside))
        notes.append(f"Beside the weights the file holds, and nothing of it was run: {listed(texts, 5)}.")
    if active := [printable(path) for path in named if _ACTIVE.fullmatch(path)]:
        notes.append(
            f"Careful with this file elsewhere: it asks for {listed(active)}, which runs as soon as a program loads it with "
            "pickle. It was not run here, and what we keep is the weights alone."
        )
    return notes


def part(tensors: Mapping[str, T], choice: str) -> dict[str, T]:
    """The tensors whose names begin with ``choice`` and a dot, without it: of a file that holds two networks as one."""
    start = f"{choice.removesuffix('.')}."
    return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def averaged(tensors: Mapping[str, T]) -> tuple[dict[str, T], str, str]:
    """The averaged copy where names tell that the network is there twice: its tensors by the network's names, what stood before
    them, and a note. Otherwise all tensors as they are.
    """
    for start in _AVERAGED:
        copy = part(tensors, start)
        first = next(iter(copy), "")
        starts = (key.removesuffix(first) for key in tensors if copy and key.endswith(f".{first}"))
        for raw in islice(starts, _MAX_COPIES):
            if raw != start and part(tensors, raw).keys() == copy.keys():
                note = f"The file holds the network twice, under {shown(start)} and {shown(raw)}; the averaged one was taken. "
                return copy, start.removesuffix("."), note + _how_to_choose(raw.removesuffix("."), "For the other")
    return dict(tensors), "", ""


def unknown_choice(choice: str, names: Sequence[str], name: str) -> IntakeError:
    """The refusal of a set of weights that is not in the file."""
    has = listed([shown(each) for each in names], 5)
    return IntakeError(
        f"{shown(name)} has no set of weights called {shown(choice)}; it has {has or 'one set, without a name'}.",
        _how_to_choose(names[0])
        if names
        else "Leave out `--weights` on the command line, 'Set of weights' on the page.",
        choices=tuple(map(printable, names)),
    )


def is_module(value: object) -> bool:
    """Whether it is what a pickled torch.nn.Module leaves."""
    state = value.state if isinstance(value, Skipped) else None
    return isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in ("_parameters", "_modules"))


_SORTS: tuple[tuple[Any, str], ...] = (
    (Stored, "a single tensor"),
    (bool | int | float | complex, "a number"),
    (str, "a text"),
    (bytes, "bytes"),
    (tuple, "a tuple"),
    (list, "a list"),
    (dict, "a dictionary"),
    (set | frozenset, "a set"),
    (type(None), "nothing (None)"),
)


def sort_of(value: object) -> str:
    """What a value is, with its article, for people who need not know Python."""
    return next((words for sort, words in _SORTS if isinstance(value, sort)), "an object")


def objects(kind: str, name: str) -> IntakeError:
    """The refusal of a file that holds objects and no weights."""
    return IntakeError(f"{shown(name)} holds Python objects ({printable(kind)}), not only weights.", RECIPE)


def _nothing(found: FoundSets, name: str) -> IntakeError:
    if found.beside:
        return objects(found.beside[0].kind, name)
    root = found.root
    if isinstance(root, dict):
        keys = listed([shown(key) if isinstance(key, str) else sort_of(key) for key in root], 5)
        return IntakeError(
            f"{shown(name)} holds no weights: expected tensors by name, or a dictionary of them under "
            f"'state_dict' or 'model'; it has {keys or 'nothing'}.",
            RECIPE,
        )
    without = " without a dictionary of tensors" if isinstance(root, tuple | list) else ""
    return IntakeError(
        f"{shown(name)} holds {sort_of(root)}{without}; expected a dictionary of tensors by name.", RECIPE
    )


def _preferred(sets: Sequence[WeightSet], name: str) -> WeightSet:
    """The set that the keys of training scripts lead to. Raises IntakeError where they lead to several."""
    depth = 0
    left = list(sets)
    while len(left) > 1:
        keys = {each.path[depth] for each in left if len(each.path) > depth}
        averages = [key for key in _AVERAGED_WRAPPERS if key in keys]
        raw = [key for key in _RAW_WRAPPERS if key in keys]
        here = [each for each in left if len(each.path) == depth]
        if averages or raw:  # tensors just below one of these keys come before others further down
            below = [key for key in raw if any(each.path[depth:] == (key,) for each in left)]
            first = (averages or below or raw)[0]
            left = [each for each in left if each.path[depth : depth + 1] == (first,)]
        elif here:
            return here[0]
        elif len(keys) > 1:
            raise _several(sets, name)
        depth += 1
    return left[0]


def _chosen(sets: Sequence[WeightSet], choice: str, name: str) -> WeightSet:
    for each in sets:
        if choice in (each.name, printable(each.name)):
            return each
    ends = [each for each in sets if each.name.endswith(f".{choice}")]
    if len(ends) == 1:
        return ends[0]
    for each in sets:  # a part of a set, by how its names begin
        below = choice.removeprefix(f"{each.name}.") if each.path else choice
        if (below != choice or len(sets) == 1) and (inside := part(each.tensors, below)):
            return WeightSet((*each.path, below), inside)
    raise unknown_choice(choice, [each.name for each in sets if each.path], name)


def _several(sets: Sequence[WeightSet], name: str) -> IntakeError:
    names = [each.name for each in sets if each.path]
    return IntakeError(
        f"{shown(name)} holds several sets of weights ({listed([shown(each) for each in names], 5)}); expected one.",
        _how_to_choose(names[0]),
        choices=tuple(map(printable, names)),
    )


def _how_to_choose(example: str, start: str = "Choose the one that you mean") -> str:
    return f"{start}: `--weights {shlex.quote(printable(example))}` on the command line, 'Set of weights' on the page."


def _related(one: WeightSet, other: WeightSet) -> bool:
    """Whether one of them lies within the other."""
    shorter = min(len(one.path), len(other.path))
    return one.path[:shorter] == other.path[:shorter]


def _plausible(found: WeightSet) -> bool:
    """Whether there are weights in it: a loss is a number without dimensions, a random state has whole numbers."""
    return any(
        isinstance(tensor, OddTensor)
        or (tensor.shape != () and (tensor.dtype.is_floating_point or tensor.dtype.is_complex))
        for tensor in found.tensors.values()
    )


def _beside_text(found: Beside) -> str:
    place = printable(".".join(found.path))
    return f"{printable(found.kind)} ({place})" if place else printable(found.kind)


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _module_state(module: Skipped, name: str) -> dict[str, Stored]:
    """What state_dict() of a pickled module would give, by dotted names: its parameters, its buffers, its modules' own."""
    found: dict[str, Stored] = {}
    waiting: list[tuple[object, str, int]] = [(module, "", 0)]
    seen = 0
    while waiting:
        value, prefix, depth = waiting.pop()
        seen += 1
        if depth > _MODULE_DEPTH or seen > _MAX_MODULES:
            raise IntakeError(f"{shown(name)} holds a model with too many modules within modules.", RECIPE)
        if not isinstance(value, Skipped) or not isinstance(value.state, dict):
            continue
        passing = value.state.get("_non_persistent_buffers_set")
        skipped = passing if isinstance(passing, set) else set()
        for key, tensor in (*_entries(value.state, "_parameters"), *_entries(value.state, "_buffers")):
            if isinstance(tensor, Stored) and key not in skipped:
                found[f"{prefix}{key}"] = tensor
        children = list(_entries(value.state, "_modules"))
        waiting += [(child, f"{prefix}{key}.", depth + 1) for key, child in reversed(children)]
    return found


def _entries(state: dict[object, object], key: str) -> Iterator[tuple[str, object]]:
    entries = state.get(key)
    if isinstance(entries, dict):
        for name, value in entries.items():
            if isinstance(name, str):
                yield name, value
