"""Change of influence under each kind of twins, drawn: a figure for each reading, and one table; and what of the parts stays."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.neural.found import at, table
from auditor.neural.influence.change import PARTS, ExplainedClass, InfluenceChange, InfluenceChangeRow
from auditor.neural.influence.totals import Overlaps
from auditor.show.blocks import AnyBlock, Figure

READINGS: dict[ExplainedClass, str] = {"own": "each image's own class", "clean": "the clean image's class"}
READ: dict[ExplainedClass, str] = {
    "own": "Influence on a twin is on the class that the twin is taken for, as the paper defines it. Where that is another "
    "class, what speaks for the one tends to speak against the other: front falls and tail rises whichever neurons carry the "
    "attack.",
    "clean": "Influence on a twin is on the class of the clean image. Left of zero: the attack lowers what these neurons add "
    "to it.",
}


def change_blocks(changes: tuple[InfluenceChange, ...], unit: str) -> Iterator[AnyBlock]:
    """``unit``: what the unit of the influence is called."""
    for key, words in READINGS.items():
        yield Figure(
            chart="dots",
            title=f"Change of influence on {words}, under each attack",
            rows=tuple(
                {"label": item.name, "series": part} | at(item, f"change.{key}.{part}").model_dump()
                for item in changes
                for part in PARTS
            ),
            options={"x": f"twin minus clean, mean of the part's neurons ({unit})"},
            reading=f"Each point is the mean over the images with its 95 % interval. {READ[key]} Random noise of the same "
            "size shows the effect of picking extreme neurons alone: an attack means something only where it goes "
            "beyond that.",
        )
    yield table(
        (item.shares(key, words) for item in changes for key, words in READINGS.items()), *InfluenceChangeRow.model_fields,
        title="Share of images, and the same with the parts picked on the twin",
        caption="The last two columns pick front and tail on the twin instead. If they show the same change with the "
        "opposite sign, the pattern comes from the picking, not from the attack.",
    )  # fmt: skip


def overlap_figure(overlap: Overlaps) -> Figure:
    """Of both parts, what was measured and what random neurons give."""
    parts = {"front": overlap.front, "tail": overlap.tail}
    same = [{"label": name, "series": "clean and twin"} | part.mean.model_dump() for name, part in parts.items()]
    random = [
        {"label": name, "series": "random neurons", "value": part.random, "low": None, "high": None, "n": None}
        for name, part in parts.items()
    ]
    return Figure(
        chart="dots",
        title="Neurons that are front, or tail, on an image and on its twin",
        rows=(*same, *random),
        options={"x": "share of the part that is the same", "format": ".0%"},
        reading="1 means that the attack left the set of neurons as it was; random neurons of the same number agree as often "
        "as the other point says.",
    )
