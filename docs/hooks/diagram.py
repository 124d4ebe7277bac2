"""Draws the flow charts of the pages as SVG, so the site needs no script from elsewhere: ``a --> b`` lines of Mermaid fences."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT, ACROSS, DOWN = 120, 34, 150, 74
"""Of a box, and from one box to the next, in pixels."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every Mermaid flow chart in place of its source."""
    return re.sub(r"```mermaid\nflowchart TD\n(.*?)```", lambda found: svg(arrows(found[1])), markdown, flags=re.DOTALL)


def arrows(source: str) -> list[tuple[str, str]]:
    """The pairs (from, to). Raises ValueError for a line that is not an arrow."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    found = [re.fullmatch(r"(\w+) --> (\w+)", line) for line in lines]
    if unread := [line for line, arrow in zip(lines, found, strict=True) if arrow is None]:
        raise ValueError(f"a flow chart of the site has arrows alone, 'a --> b', but this one has {unread[0]!r}")
    return [(arrow[1], arrow[2]) for arrow in found if arrow is not None]


def paths(edges: list[tuple[str, str]]) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Edge -> the boxes, or places to pass between boxes, that it leads through, each with its row, 0 at the top: a box is below
    every box that leads to it, and an edge has a place in every row."""
    above: dict[str, list[str]] = {name: [] for edge in edges for name in edge}
    for source, target in edges:
        above[target].append(source)
    row: dict[str, int] = {}
    for name in TopologicalSorter(above).static_order():
        row[name] = 1 + max((row[other] for other in above[name]), default=-1)
    return {
        (a, b): [(a, row[a]), *((f"{a} > {b}", between) for between in range(row[a] + 1, row[b])), (b, row[b])]
        for a, b in edges
    }


def places(edges: list[tuple[str, str]]) -> dict[tuple[str, int], float]:
    """Where each of ``paths`` is in its row, counted from the middle: those under the same ones stay together."""
    above: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for path in paths(edges).values():
        for upper, lower in pairwise(path):
            above.setdefault(upper, [])
            above.setdefault(lower, []).append(upper)
    placed: dict[tuple[str, int], float] = {}
    for number in range(1 + max(row for _, row in above)):
        here = [item for item in above if item[1] == number]
        middle = {item: sum(placed[other] for other in above[item]) / max(1, len(above[item])) for item in here}
        for index, item in enumerate(sorted(here, key=lambda item: (middle[item], item))):
            placed[item] = index - (len(here) - 1) / 2
    return placed


def svg(edges: list[tuple[str, str]]) -> str:
    """Boxes in rows, and an arrow for every edge, in the colours of the page."""
    placed, names = places(edges), {name for edge in edges for name in edge}
    left, right, rows = min(placed.values()), max(placed.values()), max(row for _, row in placed)
    at = {item: ((x - left) * ACROSS + WIDTH / 2 + 1, item[1] * DOWN + HEIGHT / 2 + 1) for item, x in placed.items()}
    lines = []
    for path in paths(edges).values():
        (x, y), *between, (end, bottom) = (at[item] for item in path)
        points = [(x, y + HEIGHT / 2), *between, (end, bottom - HEIGHT / 2 - 1)]
        joined = " ".join(f"{a:g},{b:g}" for a, b in points)
        lines.append(f'<polyline points="{joined}" fill="none" stroke="currentColor" marker-end="url(#tip)"/>')
    boxes = [
        f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="none" '
        f'stroke="currentColor"/><text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="currentColor">{name}</text>'
        for (name, _), (x, y) in at.items()
        if name in names
    ]
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>'
    )
    width, height = (right - left) * ACROSS + WIDTH + 2, rows * DOWN + HEIGHT + 2
    label = "; ".join(f"{a} imports {b}" for a, b in edges)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'style="max-width: 100%; font-size: 14px">{tip}{"".join(lines)}{"".join(boxes)}</svg>'
    )
