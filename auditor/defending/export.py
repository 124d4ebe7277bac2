"""A defended model as a folder that runs without this package: the sources that it needs, its tensors, and a loader."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from safetensors.torch import save_file

from auditor.defending.defense import Defense
from auditor.kit.errors import SpecError
from auditor.models.architecture import Architecture
from auditor.models.classifier import Classifier
from auditor.models.defended import FittedState

OURS = "auditor"
PACKAGE = "defended_model"
_DISTRIBUTIONS = {"PIL": "pillow"}
"""Where a package to import is called otherwise by its index."""


def export(
    folder: Path,
    classifier: Classifier,
    architecture: Architecture | None,
    defenses: Sequence[Defense],
    states: Sequence[FittedState],
    *,
    seed: int,
) -> None:
    """Write ``folder``: the package ``defended_model``, ``model.safetensors``, ``model.json``, ``requirements.txt``.

    With the folder on the path, ``defended_model.load(folder)`` is the deployed model: images (B, C, H, W) in [0, 1] to logits.
    Without an architecture the network's own code is not in the folder, and ``load`` must be given the network. ``classifier``
    is the undefended one. Raises SpecError for a defense or an architecture of another package.
    """
    members = [*defenses, *([architecture] if architecture is not None else [])]
    for member in members:
        if not type(member).__module__.startswith(f"{OURS}."):
            raise SpecError(
                f"{member.kind} comes from {type(member).__module__}, whose code is not ours to copy.",
                "Pass the network to load, or leave the defense out.",
            )
    modules = closure([f"{OURS}.defending.loader", *(type(member).__module__ for member in members)])
    folder.mkdir(parents=True, exist_ok=True)
    for name in modules:
        _copy(name, folder / PACKAGE)
    (folder / PACKAGE / "__init__.py").write_text(
        '"""A defended image classifier: ``load(folder)``."""\n\n'
        f"from {PACKAGE}.defending.loader import load\n\n"
        '__all__ = ["load"]\n'
    )  # fmt: skip
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements(modules)))
    tensors = {f"network.{name}": value for name, value in classifier.network.state_dict().items()}
    for index, state in enumerate(states):
        tensors |= {f"defense{index}.{name}": value for name, value in state.tensors.items()}
    save_file(
        {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
        folder / "model.safetensors",
    )
    described = {
        "name": classifier.name,
        "input_shape": classifier.input_shape,
        "num_classes": classifier.num_classes,
        "class_names": classifier.class_names,
        "normalization": classifier.normalization.model_dump(mode="json"),
        **({} if classifier.output is None else {"output": classifier.output}),
        "architecture": None
        if architecture is None
        else {"kind": architecture.kind, "settings": architecture.settings()},
        "defenses": [
            {"kind": defense.kind, "settings": defense.settings(), "facts": state.facts}
            for defense, state in zip(defenses, states, strict=True)
        ],
        "seed": seed,
    }
    (folder / "model.json").write_text(json.dumps(described, indent=2))


def closure(modules: Iterable[str]) -> list[str]:
    """These modules of ours and all that they import, sorted, packages included."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or name == OURS:
            continue
        found.add(name)
        waiting.append(name.rpartition(".")[0])
        waiting.extend(item for item in _imported(name) if item.split(".")[0] == OURS)
    return sorted(found)


def _source(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return Path(spec.origin)


def _imported(name: str) -> Iterator[str]:
    """Modules that a module imports when it runs, at its top or in a function; what is for type checkers alone is left out."""
    tree = ast.parse(_source(name).read_text())
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{item.name}" for item in node.names] if node.module.split(".")[0] == OURS else []
            modules = [item for item in inner if importlib.util.find_spec(node.module) and _is_module(item)]
            yield node.module
            yield from modules
        waiting.extend(ast.iter_child_nodes(node))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name within a module that is no package
        return False


def _copy(name: str, root: Path) -> None:
    """The module's source, our package's name replaced where it is imported or names a catalogue."""
    source = _source(name)
    parts = name.split(".")[1:]
    target = (
        root.joinpath(*parts, "__init__.py")
        if source.name == "__init__.py"
        else root.joinpath(*parts[:-1], source.name)
    )
    text = re.sub(rf"^(\s*)(from|import) {OURS}\b", rf"\1\2 {PACKAGE}", source.read_text(), flags=re.MULTILINE)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text.replace(f'"{OURS}.', f'"{PACKAGE}.'))


def _requirements(modules: Iterable[str]) -> list[str]:
    """What these modules import of others, with the versions here."""
    used = {item.split(".")[0] for name in modules for item in _imported(name)} - {OURS, "__future__"}
    others = sorted(_DISTRIBUTIONS.get(item, item) for item in used - set(sys.stdlib_module_names) - {"pydantic_core"})
    return [f"{name}=={metadata.version(name)}" for name in others]
