"""Layer notation: a list of layers read from JSON, from PyTorch's own notation, or from what ``print(model)`` shows.

The text is parsed and never run: calls of known names, with literals as arguments, are all that it may hold.
"""

from __future__ import annotations

import ast
import inspect
import json
import operator
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from torch import nn

from auditor.models.layers.specs import LAYERS, LayerSpec

MAX_TEXT = 50_000
"""Characters: 200 layers of 250 characters each."""

MAX_DEPTH = 8
"""Nested brackets in JSON; a list of layers with pairs in it has 3."""

MAX_NUMBER = 10**12

_WORDS = {"same", "valid", "zeros", "reflect", "replicate", "circular", "none", "tanh"}
_PRINTED_LINE = re.compile(r"\((\w+)\):\s*(.+)")
_ASSIGNMENT = re.compile(r"\A\s*[A-Za-z_][\w.]{0,80}\s*=(?!=)")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Mult: operator.mul,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.FloorDiv: operator.floordiv,
}
_LINEAR_LAYERS = {"batch_norm", "avg_pool", "adaptive_avg_pool", "flatten", "dropout"}
"""Layers that leave two weighted ones around them one linear map."""

_MODULES: dict[str, tuple[type[LayerSpec], Callable[..., nn.Module]]] = {
    module.__name__: (spec, module) for spec in LAYERS.values() for module in spec.modules
}
"""PyTorch's name of a module -> the spec of the layer, and the module (for the names of its arguments)."""


def parse_layers(text: str) -> list[Any]:
    """The layers in ``text``, as objects for pydantic to check.

    Takes a JSON list of layers; ``nn.Sequential(nn.Conv2d(3, 16, 4), nn.ReLU(), ...)`` with or without the Sequential around it;
    or the lines ``(0): Conv2d(3, 16, kernel_size=(4, 4))`` that PyTorch prints, of a Sequential or of a module of one's own, with
    Sequentials inside. PyTorch does not print ``ceil_mode`` and ``count_include_pad`` of AvgPool2d: they get their defaults.
    Raises ValueError with the place and what was expected.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"expected at most {MAX_TEXT} characters of text, got {len(text)}")
    try:
        return _read(text)
    except RecursionError:
        raise ValueError("expected layers such as nn.ReLU(), got an expression nested too deeply") from None


def _read(text: str) -> list[Any]:
    if re.match(r"\s*(\[\s*[\[{\"\]]|\{)", text):
        return _from_json(text)
    if re.search(r"^\s*(\w+\(\s*)?\(\w+\):", text, re.MULTILINE):
        return _from_print(text)
    layers: list[Any] = []
    _add(layers, _calls(_ASSIGNMENT.sub("", text, count=1)), ())
    return layers


def _add(layers: list[Any], calls: list[ast.expr], path: tuple[str, ...]) -> None:
    """Append the calls as layers; those of a Sequential within are named by their places in it."""
    if len(path) >= MAX_DEPTH:
        raise ValueError(f"layer {len(layers)}: expected Sequentials nested at most {MAX_DEPTH} deep")
    for place, call in enumerate(calls):
        inside = (*path, str(place))
        if isinstance(call, ast.Call) and _module_name(call.func) == "Sequential" and not call.keywords:
            _add(layers, call.args, inside)
            continue
        name, number = ".".join(inside), len(layers)
        layers.append(_layer(call, number) | ({} if name == str(number) else {"name": name}))


def _from_json(text: str) -> list[Any]:
    depths = accumulate({"[": 1, "{": 1, "]": -1, "}": -1}.get(character, 0) for character in text)
    if max(depths) > MAX_DEPTH:
        raise ValueError(f"expected a JSON list of layers, got brackets nested more than {MAX_DEPTH} deep")
    try:
        layers = json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected a JSON list of layers ({error})") from None
    if not isinstance(layers, list):
        raise ValueError('expected a JSON list of layers, such as [{"type": "flatten"}, {"type": "linear"}]')
    return layers


def _from_print(text: str) -> list[Any]:
    """What PyTorch prints of a module: a layer in each line, in the order of the lines, named by all that it lies in.

    Lines may be added: a layer without a name, such as ``ReLU()``.
    """
    layers: list[Any] = []
    containers: list[str] = []
    own = ""
    for line in map(str.strip, text.splitlines()):
        if line == ")" and containers:
            containers.pop()
        if line in ("", ")", "Sequential("):
            continue
        if not layers and not containers and (head := re.fullmatch(r"(\w+)\(", line)):
            own = head[1]
            continue
        found = _PRINTED_LINE.fullmatch(line)
        if found and found[2] == "Sequential(":
            containers.append(found[1])
            continue
        if found and found[2] in ("Sequential()", "ModuleList()", "ModuleDict()"):
            continue
        number = len(layers)
        if line.endswith("("):
            raise ValueError(
                f"layer {number}: {line[:80]!r} is a module of its own, and what it does between its lines (a sum, say) is not "
                "printed; where it is its lines one after the other, write Sequential( in that line"
            )
        calls = _calls(found[2] if found else line)
        if len(calls) > 1:
            raise ValueError(f"layer {number}: expected one layer in a line, got {line[:80]!r}")
        name = ".".join([*containers, found[1]]) if found else f"call{number}"
        layers.append(_layer(calls[0], number) | ({} if name == str(number) else {"name": name}))
    if own:
        _expect_activations(layers, own)
    return layers


def _expect_activations(layers: list[Any], own: str) -> None:
    """Raises ValueError if two weighted layers of somebody's own module meet: what ``forward`` calls is not printed."""
    before = ""
    for number, layer in enumerate(layers):
        kind, name = layer["type"], layer.get("name", str(number))
        if kind in ("conv", "linear"):
            if before:
                raise ValueError(
                    f"there is no activation between {before} and {name}. print(model) shows the modules of {own[:40]}, but not "
                    "what its forward calls between them: add a line for each, such as ReLU(), MaxPool2d(2) or Flatten(), in the "
                    "order of the calls (and Identity() where two layers do follow each other)"
                )
            before = name
        elif kind not in _LINEAR_LAYERS:
            before = ""


def _calls(text: str) -> list[ast.expr]:
    """The calls that ``text`` holds: those in a Sequential or a list, or those between commas."""
    try:
        tree = ast.parse(f"[\n{text}\n]", mode="eval").body
    except SyntaxError as error:
        line = f" in line {error.lineno - 1}" if error.lineno and error.lineno > 1 else ""
        raise ValueError(
            f"expected layers such as nn.Conv2d(3, 16, 3), nn.ReLU(); the text cannot be read{line} ({error.msg})"
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise ValueError("expected layers such as nn.Conv2d(3, 16, 3), nn.ReLU(); the text cannot be read") from None
    items = tree.elts if isinstance(tree, ast.List) else []
    if len(items) == 1 and isinstance(items[0], ast.List | ast.Tuple):
        items = items[0].elts
    if len(items) == 1 and isinstance(items[0], ast.Call) and _module_name(items[0].func) == "Sequential":
        items = items[0].args
    if not items:
        raise ValueError("expected at least one layer such as nn.Linear(784, 10), got none")
    return items


def _layer(call: ast.expr, number: int) -> dict[str, object]:
    """One call as a layer object."""
    place = f"layer {number}"
    if not isinstance(call, ast.Call):
        raise ValueError(f"{place}: expected a call such as nn.ReLU(), got {_source(call)}")
    module = _module_name(call.func)
    if module == "Sequential":
        raise ValueError(f"{place}: expected the layers of a Sequential one by one, got names for them")
    if module not in _MODULES:
        hint = " (leave it out: the network must end in logits)" if "oftmax" in module else ""
        raise ValueError(f"{place}: {module} is no layer known here{hint}; known: {', '.join(_MODULES)}")
    spec, torch_module = _MODULES[module]
    place = f"{place} ({module})"
    try:
        given = _bind(torch_module, call)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None
    layer = {"type": spec.model_fields["type"].default} | {k: v for k, v in given.items() if k in spec.model_fields}
    if module == "Dropout2d":
        layer["whole_channels"] = True
    defaults = {name: item.default for name, item in inspect.signature(torch_module).parameters.items()}
    for name, value in given.items():
        if name not in layer and name != "inplace" and value != defaults[name]:
            raise ValueError(f"{place}: {name}={value!r} is not possible here, only {name}={defaults[name]!r}")
    return layer


def _bind(module: Callable[..., nn.Module], call: ast.Call) -> dict[str, object]:
    """The arguments of the call by name, as the module's signature has them."""
    if any(isinstance(item, ast.Starred) for item in call.args) or any(item.arg is None for item in call.keywords):
        raise ValueError("expected plain arguments, got * or **")
    signature = inspect.signature(module)
    positional = [_value(item) for item in call.args]
    named = {str(item.arg): _value(item.value) for item in call.keywords}
    bound = signature.bind(*positional, **named).arguments
    if any(
        signature.parameters[name].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for name in bound
    ):
        raise ValueError("it takes no arguments")
    return dict(bound)


def _module_name(node: ast.expr) -> str:
    """``Conv2d`` of ``Conv2d``, ``nn.Conv2d`` and ``torch.nn.Conv2d``; the source itself of anything else."""
    source = _source(node)
    found = re.fullmatch(r"(?:torch\.nn\.|nn\.)?(\w+)", source)
    return found[1] if found else source


def _value(node: ast.expr) -> Any:
    """The value of a literal, of a pair of them, or of whole numbers multiplied, added, subtracted or divided."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name(id=word) if word in _WORDS:
            return word
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(map(_value, items))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            a, b = _value(left), _value(right)
            if type(a) is int and type(b) is int and (b or not isinstance(op, ast.FloorDiv)):
                result = _OPERATORS[type(op)](a, b)
                if abs(result) <= MAX_NUMBER:
                    return result
    raise ValueError(f"expected numbers and words as arguments, got {_source(node)}")


def _source(node: ast.expr) -> str:
    try:
        text = ast.unparse(node)
    except (RecursionError, ValueError):
        return "an expression too deep to show"
    return text if len(text) <= 60 else text[:57] + "..."
