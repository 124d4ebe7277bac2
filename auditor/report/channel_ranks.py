"""The rank of the route, and of its controls, among sets of as many channels, as a table."""

from __future__ import annotations

from typing import Any

from auditor.influence.selection import CHOICES
from auditor.metrics import Rate
from auditor.report.blocks import Column, Table

LISTED = 8
"""A table names the channels of a set of at most so many."""


def rank_table(data: dict[str, Any], names: list[str]) -> tuple[Table, ...]:
    """Of ``ranks`` in a finding's data; nothing where it has none (findings made before sets were ranked)."""
    ranks = data.get("ranks", [])
    if not ranks:
        return ()
    rows = []
    for item in ranks:
        for row in item["rows"]:
            count = sum(map(len, row["channels"]))
            rows.append(
                {
                    "layers": ", ".join(names[place] for place in item["layers"]),
                    "choice": CHOICES[row["choice"]],
                    "which": "; ".join(", ".join(map(str, part)) for part in row["channels"])
                    if count <= LISTED
                    else None,
                    "on_route": f"{row['on_route']} of {count}",
                    "restored": str(Rate.count(row["hits"], item["images"])),
                    "rank": rank_of(row),
                    "as_many": _share(row["as_many"], item["whole"]),
                }
            )
    return (
        Table(
            title="Rank among sets of as many channels",
            columns=(
                Column(key="layers", title="Layers"),
                Column(key="choice", title="Channels"),
                Column(key="which", title="Which"),
                Column(key="on_route", title="On the route, too"),
                Column(key="restored", title=f"Restored, of {ranks[0]['images']} broken"),
                Column(key="rank", title="Rank"),
                Column(key="as_many", title="Other sets that restore at least as many"),
            ),
            rows=tuple(rows),
            caption=" ".join(_said(item, names) for item in ranks)
            + " Rank 1 restores the most; a range: others restore as many.",
        ),
    )


def rank_of(row: dict[str, Any]) -> str:
    """``7 to 10 of 1,820``: the rank of a set among the others and itself."""
    place = f"{row['first']:,}" if row["first"] == row["last"] else f"{row['first']:,} to {row['last']:,}"
    return f"{place} of {row['others'] + 1:,}"


def _share(rate: dict[str, Any], whole: bool) -> str:
    """With its interval where the sets are a sample."""
    if rate["value"] is None:
        return "–"
    return f"{100 * rate['value']:.1f} %" if whole else str(Rate.model_validate(rate))


def _said(item: dict[str, Any], names: list[str]) -> str:
    """What the sets are, in a sentence."""
    where = ", ".join(names[place] for place in item["layers"])
    possible = int(item["possible"])
    shown = f"{possible:,}" if possible < 10**9 else f"{possible:.1e}"
    which = f"All {shown} sets" if item["whole"] else f"{item['sets']:,} of the {shown} possible sets, drawn at random,"
    return (
        f"{where}: {which} were tried; {_share(item['none'], item['whole'])} restore nothing, the median is {item['median']:g} "
        f"images, the best restores {item['most']}."
    )
