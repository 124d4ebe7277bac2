"""``--match`` and ``--show-match``: classes of the data on the model's, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.files import text_or_file
from app.commands.show import console, print_table

if TYPE_CHECKING:
    from auditor.models.hand_match import HandMatch
    from worker.client import Client

Match = Annotated[
    str,
    typer.Option(
        "--match",
        help="Classes matched by hand, such as cat=3,dog=hound,fish= : a class of the data, and the model's class that it counts "
        "as, each by name or by number from 0; with nothing after = its images are left out. Or a JSON file of such pairs.",
    ),
]
ShowMatch = Annotated[
    bool, typer.Option("--show-match", help="Print how the classes of the data match the model's, and stop.")
]


def match_of(text: str) -> dict[str, int | str | None]:
    """A match of classes from its text. Raises SpecError."""
    from auditor.data.intake.label_map import parse_label_map

    return parse_label_map(text_or_file(text, "match"), "match")


def print_match(client: Client, model: str, dataset: str, match: HandMatch) -> None:
    """The match of classes as a table, with what is to be known of it. Raises MismatchError for one that cannot be."""
    sides = client.audits.class_sides(model, dataset)
    found = sides.match(match)
    table = sides.table(found)
    names = sides.model_names
    print_table(
        ("class of the data", "images", "class of the model", ""),
        [
            (
                f"{row.label}: {row.name}" if sides.data_names is not None else row.name,
                f"{row.images:,}",
                "left out" if row.place is None else f"{row.place}: {names[row.place]}" if names else row.place,
                "by hand" if row.changed else "",
            )
            for row in table.rows
        ],
    )
    console.print(f"matched {table.describe()}")
    for note in found.notes:
        console.print(f"note: {note}")
    for flag in found.flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")
