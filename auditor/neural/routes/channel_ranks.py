"""The rank of the route, and of its controls, among sets of as many channels: in numbers, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from auditor.kit.statistics.estimate import Rate
from auditor.neural.found import Found
from auditor.neural.routes.channel_sets import Channels, ChannelSets, Standing, standing
from auditor.neural.routes.selection import CHOICES, Choice, RouteLayer
from auditor.show.blocks import Column, Table

RANKED: tuple[Choice, ...] = ("route", "norm", "energy")
"""Ways to choose that are one set of channels, the same for every image: these have a rank among the other sets."""
LISTED = 8
"""A table names the channels of a set of at most so many."""


class RankedSet(Standing):
    """The channels of one way to choose, of which ``on_route`` are on the route, too, and where they stand."""

    choice: Choice
    channels: Channels
    on_route: int

    @property
    def count(self) -> int:
        """How many channels there are."""
        return sum(map(len, self.channels))

    @property
    def rank(self) -> str:
        """``7 to 10 of 1,820``: the rank of the set among the others and itself."""
        place = f"{self.first:,}" if self.first == self.last else f"{self.first:,} to {self.last:,}"
        return f"{place} of {self.others + 1:,}"

    @property
    def which(self) -> str | None:
        """The channels, layer by layer, where they are few."""
        return "; ".join(", ".join(map(str, part)) for part in self.channels) if self.count <= LISTED else None


class ChannelRanks(Found):
    """Sets of as many channels of the layers at these places of the route, on ``images`` that the attack broke.

    ``sets``: how many were tried, of the ``possible`` ones (in digits: more than a float holds); ``whole``: all of them.
    ``none``: the share that restores nothing; ``median``, ``most``: images that a set restores. ``rows``: the route first.
    """

    layers: tuple[int, ...]
    images: int
    sets: int
    possible: str
    whole: bool
    none: Rate
    median: float
    most: int
    rows: tuple[RankedSet, ...]

    def share(self, rate: Rate) -> str:
        """Of all sets; with its interval where they are a sample."""
        if rate.value is None:
            return "–"
        return f"{100 * rate.value:.1f} %" if self.whole else str(rate)

    def said(self, layers: Sequence[RouteLayer]) -> str:
        """What the sets are, in a sentence."""
        possible = int(self.possible)
        shown = f"{possible:,}" if possible < 10**9 else f"{possible:.1e}"
        which = f"All {shown} sets" if self.whole else f"{self.sets:,} of the {shown} possible sets, drawn at random,"
        return (
            f"{names_of(self.layers, layers)}: {which} were tried; {self.share(self.none)} restore nothing, the median is "
            f"{self.median:g} images, the best restores {self.most}."
        )


def names_of(places: Sequence[int], layers: Sequence[RouteLayer]) -> str:
    """The layers at some places of a route."""
    return ", ".join(layers[place].name for place in places)


def ranks_of(
    layers: tuple[int, ...],
    chosen: Mapping[Choice, Channels],
    sets: ChannelSets,
    restored: Mapping[Channels, int],
    images: int,
) -> ChannelRanks:
    """Where the channels of the route and of its controls stand among the sets. ``restored``: of ``images`` by each set."""
    hits = np.array([restored[item] for item in sets.sets], np.int64)

    def ranked(choice: Choice) -> RankedSet:
        own = chosen[choice]
        shared = sum(len({*mine} & {*other}) for mine, other in zip(own, chosen["route"], strict=True))
        return RankedSet(choice=choice, channels=own, on_route=shared, **dict(standing(own, sets, restored)))

    return ChannelRanks(
        layers=layers,
        images=images,
        sets=len(sets.sets),
        possible=str(sets.possible),
        whole=sets.whole,
        none=Rate.of(hits == 0),
        median=float(np.median(hits)),
        most=int(hits.max()),
        rows=tuple(map(ranked, RANKED)),
    )


def rank_table(ranks: Sequence[ChannelRanks], layers: Sequence[RouteLayer]) -> Table:
    """Of at least one; ``layers``: those of the route."""
    return Table(
        title="Rank among sets of as many channels",
        columns=(
            Column(key="layers", title="Layers"),
            Column(key="choice", title="Channels"),
            Column(key="which", title="Which"),
            Column(key="on_route", title="On the route, too"),
            Column(key="restored", title=f"Restored, of {ranks[0].images} broken"),
            Column(key="rank", title="Rank"),
            Column(key="as_many", title="Other sets that restore at least as many"),
        ),
        rows=tuple(
            {
                "layers": names_of(item.layers, layers),
                "choice": CHOICES[row.choice],
                "which": row.which,
                "on_route": f"{row.on_route} of {row.count}",
                "restored": str(Rate.count(row.hits, item.images)),
                "rank": row.rank,
                "as_many": item.share(row.as_many),
            }
            for item in ranks
            for row in item.rows
        ),
        caption=" ".join(item.said(layers) for item in ranks)
        + " Rank 1 restores the most; a range means that other sets restore as many.",
    )
