"""An evaluated defense as sections: the verdict, the one table, static and adaptive attacks, doubts, cost,
reproduction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from auditor.attacking.attack import ATTACKS, Budget
from auditor.defending.table import DefenseTable, Distances, Knowledge, RobustRow
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import in_points, paired_difference
from auditor.show.blocks import AnyBlock, ChartOptions, Column, Figure, Measure, Measures, Row, Section, Table, Text

TONES: dict[str, Literal["note", "warning", "bad"]] = {"info": "note", "warning": "warning", "severe": "bad"}

KNOWS: dict[Knowledge, str] = {
    "static": "the undefended model only",
    "white box": "model and defense",
    "black box": "answers of the defended model",
    "influence": "neuron influence (the NIP paper's adaptive attacks)",
}
"""What the attacker knows, or goes by."""

SERIES: dict[Knowledge, str] = {
    "static": "static, share of all samples",
    "white box": "adaptive, knows the defense",
    "black box": "adaptive, asks the defended model",
    "influence": "adaptive, as the NIP paper has it",
}
"""What the groups of attacks are called in charts."""

COUNTED = "static, as the paper counts"
"""The defense success rate in charts."""
SHARES: ChartOptions = {"format": ".1%", "domain": [0, 1], "aligned": True}
"""Options of charts of shares, one for each label."""


def table_sections(evaluation: DefenseTable, doubts: Sequence[Flag] = ()) -> list[Section]:
    """One evaluation of a defense, or of several in a row, in the order in which it is to be read.

    ``doubts``: more of them than those of the evaluation itself.
    """
    return [
        _verdict(evaluation, (*doubts, *evaluation.flags)),
        _table(evaluation),
        _side_by_side(evaluation),
        _quality(evaluation),
        *_reproductions(evaluation),
    ]


def defenses_named(evaluation: DefenseTable) -> str:
    """``NIP``, or ``Spatial smoothing, then NIP``."""
    return ", then ".join(defense.display_title() for defense in evaluation.defenses)


def budget_named(budget: Budget, evaluation: DefenseTable) -> str:
    """What the two ways to make static images are called."""
    return f"within {evaluation.threat}" if budget == "fixed" else "closest image"


def weakest(rows: tuple[RobustRow, ...]) -> RobustRow | None:
    """The row of the lowest accuracy, of equals the first; None without any."""
    return min(rows, key=lambda row: row.accuracy.value or 0.0, default=None)


def withheld(evaluation: DefenseTable) -> str:
    """Why the robust accuracy is not established; empty where it is."""
    return " ".join(flag.text for flag in evaluation.flags if flag.severity == "severe")


def _verdict(evaluation: DefenseTable, flags: Sequence[Flag]) -> Section:
    blocks: list[AnyBlock] = [Measures(items=tuple(_measures(evaluation)))]
    blocks += [Text(text=sentence) for sentence in sentences(evaluation)]
    blocks += [Text(text=flag.text, tone=TONES[flag.severity]) for flag in flags]
    if not flags:
        blocks.append(Text(text="Nothing in this evaluation casts doubt on these numbers.", tone="good"))
    return Section(key="verdict", title="What the defense is worth", blocks=tuple(blocks))


def _measures(evaluation: DefenseTable) -> Iterator[Measure]:
    doubt, lowest = withheld(evaluation), evaluation.headline
    title = f"Robust accuracy, {evaluation.threat}"
    if doubt:
        yield Measure(title=f"{title}: not established", value=None, explanation=doubt)
    else:
        yield lowest.accuracy.measure(
            title, higher_is_better=True,
            explanation=f"The lowest of {sum(row.within for row in evaluation.robust)} attacks within epsilon: {lowest.name}.",
        )  # fmt: skip
    bare = weakest(evaluation.undefended)
    if bare is not None:
        yield bare.accuracy.measure(
            "The same, undefended", higher_is_better=True,
            explanation=f"The model without the defense, under {bare.name}, on the same samples.",
        )  # fmt: skip
    yield evaluation.benign.measure(
        "Benign accuracy",
        higher_is_better=True,
        explanation=f"Unperturbed samples, with the defense. Without it: {evaluation.benign_undefended}.",
    )
    rates = [row for row in evaluation.static if row.success.value is not None]
    if rates:
        best = max(rates, key=lambda row: row.success.value or 0)
        yield best.success.measure(
            "Best static success",
            explanation="What papers quote: of adversarial images made for the undefended model, the share that the defense "
            f"restores. {best.attack.display_title()}, {budget_named(best.budget, evaluation)}. It is not a robust "
            "accuracy.",
        )


def sentences(evaluation: DefenseTable) -> list[str]:
    """The verdict in sentences."""
    doubt = withheld(evaluation)
    if doubt:
        return [f"What is left under attack is not established: {doubt}"]
    lowest, bare = evaluation.headline, weakest(evaluation.undefended)
    votes = ", by majority vote" if evaluation.random else ""
    n = lowest.accuracy.n
    said = [
        f"Within {evaluation.threat}, the model behind {defenses_named(evaluation)} keeps the right class on at most "
        f"{lowest.accuracy} of {n} samples. This is the lowest of all attacks within epsilon ({lowest.name}); a stronger "
        f"attack can only lower it. {evaluation.worst} hold under every one of them."
    ]
    if evaluation.random:
        said.append(
            "Its outputs are random: accuracies are means over fresh draws at the images found. By majority vote "
            f"{lowest.majority} of the samples stay right."
        )
    if bare is not None:
        gain = paired_difference(np.array(bare.held), np.array(lowest.held))
        told = "no clear gain" if gain.low <= 0 <= gain.high else "a gain" if gain.value > 0 else "a loss"
        said.append(
            f"Undefended, {bare.accuracy} remain ({bare.name}): {told}, {in_points(gain)} points on the same samples"
            f"{votes}."
        )
    return said


def _table(evaluation: DefenseTable) -> Section:
    """Everything measured, one row each."""
    lowest = None if withheld(evaluation) else evaluation.headline
    rows = [
        _row("Benign, undefended", "–", "share of the samples", evaluation.benign_undefended),
        _row("Benign, defended", "–", "share of the samples", evaluation.benign),
        *(
            _row(
                f"{row.name}, undefended", KNOWS["static"], "share of the samples", row.accuracy, row.distances,
                row.seconds,
            )
            for row in evaluation.undefended
        ),
        *(
            _row(
                f"{row.attack.display_title()}, {budget_named(row.budget, evaluation)}", KNOWS["static"],
                "share of the adversarial images", row.success, row.distances,
            )
            for row in evaluation.static
        ),
        *(
            _row(row.name, KNOWS[row.knowledge], "share of the samples", row.accuracy, row.distances, row.seconds)
            | {"role": "headline" if row is lowest else "" if row.within else "outside epsilon"}
            for row in evaluation.robust
        ),
    ]  # fmt: skip
    table = Table(
        columns=(
            Column(key="what", title="What"),
            Column(key="knows", title="The attacker knows"),
            Column(key="of", title="Counted as"),
            Column(key="rate", title="Right [95 %]"),
            Column(key="n", title="of"),
            Column(key="distance", title=f"{evaluation.threat.norm.symbol} distance, median (from, to)"),
            Column(key="seconds", title="Seconds", format=".1f"),
            Column(key="role", title="Role"),
        ),
        rows=tuple(rows),
        caption="Static rows count, as papers do, the adversarial images of the undefended model that the defended one gets "
        "right (defense success rate); all other rows count all samples, so a sample wrong from the start counts against "
        "the model. The headline is the lowest row within epsilon. Distances are those of the images that were shown (static "
        "rows) or that broke a sample (others). Rows outside epsilon follow the NIP paper's recipes, which have no budget, "
        "and never enter the headline. Intervals: Wilson."
        + (" The model has random outputs: every accuracy is a mean over draws." if evaluation.random else ""),
    )
    return Section(key="table", title="Everything in one table", blocks=(table,))


def _row(
    what: str, knows: str, of: str, rate: Rate, distances: Distances | None = None, seconds: float | None = None
) -> Row:
    return {
        "what": what, "knows": knows, "of": of, "rate": str(rate), "n": rate.n,
        "distance": None if distances is None else _spread(distances), "seconds": seconds, "role": "",
    }  # fmt: skip


def _spread(distances: Distances) -> str | None:
    """``0.031 (0.012, 0.031)``; None if there is no image."""
    if distances.median is None or distances.smallest is None or distances.largest is None:
        return None
    return f"{distances.median:.3g} ({distances.smallest:.3g}, {distances.largest:.3g})"


def _side_by_side(evaluation: DefenseTable) -> Section:
    points = tuple(_points(evaluation))
    figure = Figure(
        chart="dots",
        title="Static against adaptive attacks",
        rows=points,
        options=SHARES | {"x": "right behind the defense", "height": 24 * len(points)},
        reading="Shares with their 95 % Wilson intervals; further right is better. A defense of real value keeps its "
        "place from the static rows down to the adaptive ones; a defense that only stops known attacks falls "
        "to the left when the attacker knows it. Static success counts adversarial images, all other rows "
        "count all samples.",
    )
    return Section(key="static-adaptive", title="Static against adaptive", blocks=(figure,))


def _points(evaluation: DefenseTable) -> Iterator[Row]:
    yield _point("benign, undefended", "benign", evaluation.benign_undefended)
    yield _point("benign, defended", "benign", evaluation.benign)
    for row in evaluation.undefended:
        yield _point(f"{row.name}, undefended", "undefended model attacked", row.accuracy)
    for static in evaluation.static:
        name = f"{static.attack.display_title()}, {budget_named(static.budget, evaluation)}"
        yield _point(name, COUNTED, static.success)
    for row in evaluation.robust:
        outside = "" if row.within else " (outside epsilon)"
        yield _point(f"{row.name}{outside}", SERIES[row.knowledge], row.accuracy)


def _point(label: str, series: str, rate: Rate) -> Row:
    return {
        "label": label,
        "series": series,
        "value": rate.value,
        "low": rate.low,
        "high": rate.high,
        "n": rate.n,
    }


def _quality(evaluation: DefenseTable) -> Section:
    """What the defense does to images and neurons, and what it costs."""
    images = Table(
        title="What the network gets",
        columns=(
            Column(key="attack", title="Static attack"),
            Column(key="quality", title="PSNR, dB", format=".1f"),
            Column(key="literal", title="PSNR as printed, dB", format=".1f"),
            Column(key="before", title="TKNC, attacked", format=".3f"),
            Column(key="after", title="TKNC, defended", format=".3f"),
        ),
        rows=tuple(
            {
                "attack": f"{row.attack.display_title()}, {budget_named(row.budget, evaluation)}",
                "quality": row.quality, "literal": row.quality_literal,
                "before": row.consistency_undefended, "after": row.consistency,
            }
            for row in evaluation.static
        ),
        caption="Means over the adversarial images, each against its clean image. PSNR: 10 log10 (1 / MSE) of what the network "
        "gets; the NIP paper prints 20 log10 (1 / MSE), which is twice that. TKNC: of the five neurons of largest influence "
        "before the last layer, those in common over those of either image; a defense that restores the class should raise it.",
    )  # fmt: skip
    bare, time = evaluation.seconds_per_1000_undefended, evaluation.seconds_per_1000
    cost = Measures(
        items=(
            Measure(
                title="Time per 1,000 images",
                value=round(time, 2),
                unit="s",
                higher_is_better=False,
                explanation="Behind the defense, on the machine and in the batches of this evaluation.",
            ),
            Measure(title="The same, undefended", value=round(bare, 2), unit="s", higher_is_better=False),
            Measure(title="Times slower", value=round(time / bare, 2) if bare else None, higher_is_better=False),
        )
    )
    return Section(key="quality", title="Images, neurons and time", blocks=(images, cost))


def _reproductions(evaluation: DefenseTable) -> list[Section]:
    if not evaluation.reproductions:
        return []
    rows = tuple(
        {
            "name": row.name,
            "attack": f"{ATTACKS[row.attack.partition(':')[0]].display_title()}, {budget_named(row.budget, evaluation)}",
            "rate": str(row.success),
            "n": row.success.n,
        }
        for row in evaluation.reproductions
    )
    warning = (
        "These rows are not a defense. The published code of NIP looks at the clean twin of every adversarial image, "
        "or at the right answer, which nobody has in practice. The rows show what that protocol reports and enter no "
        "other number on this page. Compare them with the random direction that has the same knowledge, where there is "
        "one."
    )
    table = Table(
        columns=(
            Column(key="name", title="Reproduction"),
            Column(key="attack", title="Adversarial images of the undefended model"),
            Column(key="rate", title="Restored [95 %]"),
            Column(key="n", title="of"),
        ),
        rows=rows,
        caption="Share of the adversarial images that get the class of the clean image back.",
    )
    return [
        Section(
            key="reproduction",
            title="Reproduction of the published code",
            blocks=(Text(text=warning, tone="warning"), table),
        )
    ]
