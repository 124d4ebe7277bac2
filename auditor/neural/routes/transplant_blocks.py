"""How transplants of clean features are drawn: the accuracies, layers alone, the first layers together, and the ranks."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.kit.statistics.paired import in_points
from auditor.neural.routes.channel_ranks import rank_table
from auditor.neural.routes.selection import CHOICES
from auditor.neural.routes.transplant import Transplants
from auditor.show.blocks import AnyBlock, Column, Figure, Measures, Table


def transplant_blocks(found: Transplants, width: float) -> Iterator[AnyBlock]:
    """``width``: that of the model-level route, at which the first layers are transplanted together."""
    rates = (("Accuracy, clean", found.clean), ("Accuracy, adversarial", found.adversarial))
    yield Measures(items=tuple(rate.measure(title, higher_is_better=True) for title, rate in rates))
    yield from (_figure(found, place) for place in found.alone)
    if found.firsts(width):
        yield _together(found, width)
    if found.ranks:
        yield rank_table(found.ranks, found.layers)


def _together(found: Transplants, width: float) -> Table:
    """The first layers, one, two, ..., each with the route and its controls."""
    what = "accuracy on all images" if found.of_all_alone else "restored"
    return Table(
        title=f"Transplant of {100 * width:g} % of the channels of the first layers",
        columns=(
            Column(key="layers", title="Layers"),
            Column(key="choice", title="Channels"),
            Column(key="channels", title="Count"),
            Column(key="accuracy", title=f"Accuracy, of all {found.images}"),
            Column(key="restored", title=f"Restored, of the {found.broken} broken"),
            Column(key="difference", title=f"Route minus this, points ({what})"),
        ),
        rows=tuple(
            {
                "layers": found.names(row.layers),
                "choice": row.title,
                "channels": row.channels,
                "accuracy": str(row.accuracy),
                "restored": str(row.restored),
                "difference": in_points(row.route_minus_this if found.of_all_alone else row.restored_minus_this),
            }
            for row in found.firsts(width)
        ),
        caption="Intervals at 95 %. Broken: correct when clean and wrong when attacked; restored: correct again. The last column "
        f"compares the route with the control on the same images ({what}). At random: every image has its own draw "
        "from all channels of the layer, including those of the route. The numbers hold for these twins only: other "
        "steps or another start of the attack give other numbers.",
    )


def _figure(found: Transplants, place: int) -> Figure:
    """One line per way to choose."""
    return Figure(
        chart="lines",
        title=f"Transplant at layer {place + 1}, {found.layers[place].name}",
        rows=tuple(
            {"x": x, "series": title, **rate.model_dump()}
            for choice, title in CHOICES.items()
            for x, rate in found.curve(place, choice)
        ),
        options={
            "x": "share of the layer's channels",
            "y": "accuracy",
            "x_format": ".0%",
            "share": True,
            "legend": "channels",
        },
        reading="Accuracy on adversarial images when that share of the layer's channels puts out what it does for the clean "
        "image. The route matters only where its line lies above all the others; the band is the 95 % interval. Outside the "
        "route there are too few channels for the larger shares.",
    )
