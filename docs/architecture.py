"""Draws the wings of the code and what each uses, into architecture.md: ``make architecture``."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

PACKAGES = ("app", "worker", "auditor")
PAGE = Path(__file__).with_suffix(".md")
ROOT = PAGE.parents[1]

HEAD = """# The layout of the code

`make architecture` makes this page from the imports, and a test checks it. An arrow leads from a wing to one that it
imports; arrows that follow from others are left out.

Within a wing, the members of a catalogue (attacks, checks, corruptions, analyses, defenses, hardenings, architectures) do not
import each other. One contract of import-linter, "the wings of the core" in `pyproject.toml`, keeps the order.

"""


def wing(module: str) -> str:
    """``auditor.neural`` of ``auditor.neural.analyses.k_ns``; ``app`` of ``app.views.result``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "auditor" and len(parts) > 1 else parts[0]


def imports() -> dict[str, set[str]]:
    """For every module of ours the modules of ours that it imports, also inside functions and for types alone."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def uses(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """For every wing the wings that it imports. The package ``auditor`` itself names public things only, and is left out."""
    found: dict[str, set[str]] = {wing(module): set() for module in modules}
    for module, imported in modules.items():
        found[wing(module)] |= {wing(other) for other in imported} - {wing(module), "auditor"}
    found.pop("auditor")
    return found


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that follow from others. Raises CycleError where there is a circle."""
    below: dict[str, set[str]] = {}
    for name in TopologicalSorter(edges).static_order():
        below[name] = edges[name].union(*(below[other] for other in edges[name]))
    return {
        name: {other for other in others if not any(other in below[between] for between in others - {other})}
        for name, others in edges.items()
    }


def page() -> str:
    edges = uses(imports())
    names = sorted(edges, key=lambda name: (-len(edges[name]), name))
    rows = [f"| `{name}` | {docstring(name)} |" for name in names]
    arrows = [f"    {short(name)} --> {short(other)}" for name in names for other in sorted(reduced(edges)[name])]
    table = "\n".join(["| wing | what it holds |", "|---|---|", *rows])
    return HEAD + "```mermaid\nflowchart TD\n" + "\n".join(arrows) + "\n```\n\n" + table + "\n"


def short(name: str) -> str:
    return name.removeprefix("auditor.")


def docstring(name: str) -> str:
    """The first line of a package's docstring."""
    text = (ROOT / Path(*name.split(".")) / "__init__.py").read_text()
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(page())
