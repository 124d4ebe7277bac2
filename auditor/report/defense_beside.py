"""The evaluation of a defense beyond its own table: controls, paired tests, and sweeps over its parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from auditor.attacking.attack import BUDGETS
from auditor.defending.comparing import NO_DEFENSE
from auditor.defending.evaluation import DefenseEvaluation, SweepResult
from auditor.defending.table import DefenseTable
from auditor.kit.statistics.estimate import Rate
from auditor.report.defense_table import SHARES, budget_named
from auditor.show.blocks import AnyBlock, ChartOptions, Column, Figure, Row, Section, Table, Text


def controls_section(evaluation: DefenseEvaluation) -> Section:
    """The defense compared with its controls and the undefended model, on the same samples."""
    tables = {evaluation.title: evaluation.table, **{item.title: item.table for item in evaluation.controls}}
    blocks: list[AnyBlock] = []
    if evaluation.controls:
        told = (
            "Controls also change the image, but know nothing about the network: a random direction, noise, a "
            "candidate picked at "
            "random. A defense that does no better than these has not shown that its idea is what helps."
        )
        blocks += [Text(text=told), _rates(tables, evaluation.table), _figure(tables)]
    blocks.append(_sample_tests(evaluation))
    if evaluation.attack_tests:
        blocks.append(_attack_tests(evaluation))
    title = "Compared with the controls" if evaluation.controls else "Compared with the undefended model"
    return Section(key="controls", title=title, blocks=tuple(blocks))


def _rates(tables: Mapping[str, DefenseTable], own: DefenseTable) -> Table:
    rows = [
        {
            "name": name, "benign": str(found.benign), "headline": str(found.headline.accuracy),
            "by": found.headline.name,
            **{budget: _show(static_success(found, budget)) for budget in BUDGETS},
        }
        for name, found in tables.items()
    ]  # fmt: skip
    return Table(
        columns=(
            Column(key="name", title="Defense"),
            Column(key="benign", title="Benign [95 %]"),
            Column(key="fixed", title=f"Static success, {budget_named('fixed', own)}"),
            Column(key="minimal", title=f"Static success, {budget_named('minimal', own)}"),
            Column(key="headline", title="Lowest robust accuracy [95 %]"),
            Column(key="by", title="under"),
        ),
        rows=tuple(rows),
        caption="Static success is counted as in papers; with several static attacks it is their mean, which has no "
        "interval. "
        f"n = {len(own.samples)} samples, the same for all; static success counts the adversarial images among them.",
    )


def _figure(found: Mapping[str, DefenseTable]) -> Figure:
    rows = [
        {"label": name, "series": series, **_ends(rate)}
        for name, item in found.items()
        for series, rate in (
            ("static success, closest image", static_success(item, "minimal")),
            ("static success, within epsilon", static_success(item, "fixed")),
            ("lowest robust accuracy", item.headline.accuracy),
        )
    ]
    return Figure(
        chart="dots",
        title="The defense and its controls",
        rows=tuple(rows),
        options=SHARES | {"x": "right behind the defense", "aligned": False, "height": 70 * len(found)},
        reading="Static success as papers count it, and what is left under the strongest attack, for the defense and for each "
        "control. Intervals at 95 % (Wilson) where one attack stands behind a dot; means of several attacks have none.",
    )


def _sample_tests(evaluation: DefenseEvaluation) -> Table:
    return Table(
        title="Paired tests on the samples",
        columns=(
            Column(key="other", title="Against"),
            Column(key="attack", title="Under"),
            Column(key="difference", title="Difference, points [95 %]"),
            Column(key="only_defense", title="Only the defense holds"),
            Column(key="only_other", title="Only the other holds"),
            Column(key="p", title="p", format=".2g"),
            Column(key="adjusted", title="p, corrected (Holm)", format=".2g"),
        ),
        rows=tuple(
            {
                "other": test.other, "attack": test.attack,
                "difference": f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]",
                "only_defense": test.only_defense, "only_other": test.only_other, "p": test.p, "adjusted": test.adjusted,
            }
            for test in evaluation.sample_tests
        ),
        caption=f"The defense minus the other, on the same {len(evaluation.table.samples)} samples: interval of Agresti and Min, "
        f"McNemar's exact test, corrected over all {len(evaluation.sample_tests)} rows. Against {NO_DEFENSE}, the undefended "
        "model is attacked with the same gradient attacks.",
    )  # fmt: skip


def _attack_tests(evaluation: DefenseEvaluation) -> Table:
    return Table(
        title="Paired tests over the attacks",
        columns=(
            Column(key="other", title="Against"),
            Column(key="budget", title="Static images"),
            Column(key="attacks", title="Attacks"),
            Column(key="difference", title="Mean difference, points", format="+.1f"),
            Column(key="t", title="t", format=".3g"),
            Column(key="p", title="p", format=".2g"),
            Column(key="adjusted", title="p, corrected (Holm)", format=".2g"),
        ),
        rows=tuple(
            {
                "other": test.other, "budget": budget_named(test.budget, evaluation.table), "attacks": test.attacks,
                "difference": 100 * test.difference, "t": test.t, "p": test.p, "adjusted": test.adjusted,
            }
            for test in evaluation.attack_tests
        ),
        caption="The test of the NIP paper: a paired t-test over the static success of the attacks, corrected here for the "
        "number of tests. Attacks are not independent samples, so even the corrected p are too small: trust "
        "the tests on the samples.",
    )  # fmt: skip


def static_success(evaluation: DefenseTable, budget: str) -> Rate | float | None:
    """Defense success over the static attacks of a budget: a rate where there is one attack, else the mean; None without any."""
    rates = [row.success for row in evaluation.static if row.budget == budget and row.success.value is not None]
    if len(rates) == 1:
        return rates[0]
    return float(np.mean([rate.value for rate in rates])) if rates else None


def _show(success: Rate | float | None) -> str | None:
    return f"{100 * success:.1f} %" if isinstance(success, float) else None if success is None else str(success)


def _ends(success: Rate | float | None) -> Row:
    if isinstance(success, Rate):
        return {"value": success.value, "low": success.low, "high": success.high, "n": success.n}
    return {"value": success, "low": None, "high": None, "n": None}


def sweeps_section(evaluation: DefenseEvaluation) -> Section | None:
    """A figure for each parameter that was varied; None without any."""
    figures = tuple(sweep_figure(sweep) for sweep in evaluation.sweeps)
    return Section(key="sweeps", title="What the parameters change", blocks=figures) if figures else None


def sweep_figure(sweep: SweepResult) -> Figure:
    """Benign accuracy, static success and the lowest robust accuracy against one parameter; names stand in their order."""
    numeric = all(isinstance(point.value, float) for point in sweep.points)
    chart = "lines" if numeric else "layer_lines" if sweep.parameter == "layer" else "dots"
    what = {"k": "k (front and tail neurons, each)"}.get(sweep.parameter, sweep.parameter.replace("_", " "))
    rows = [
        _place(chart, point.value, place) | {"series": series, **_ends(rate)}
        for place, point in enumerate(sweep.points)
        for series, rate in (
            ("benign accuracy", point.table.benign),
            ("static success, closest image", static_success(point.table, "minimal")),
            ("static success, within epsilon", static_success(point.table, "fixed")),
            ("lowest robust accuracy", point.table.headline.accuracy),
        )
    ]
    n = len(sweep.points[0].table.samples)
    right = "right behind the defense"
    options: dict[str, ChartOptions] = {
        "lines": {"x": what, "y": right, "share": True, "height": 280},
        "layer_lines": {"y": right, "share": True, "height": 280},
        "dots": SHARES | {"x": right, "aligned": False, "height": 90 * len(sweep.points)},
    }
    return Figure(
        chart=chart,
        title=f"Against {what}",
        rows=tuple(rows),
        options=options[chart],
        reading=f"Each point is an evaluation with another value of {what} on the same {n} samples; higher is better. What "
        "counts is the lowest robust accuracy. Bands or bars: 95 % Wilson intervals; means over several attacks have none.",
    )


def _place(chart: str, value: float | str, place: int) -> Row:
    """Where a point of a sweep stands in a chart of this kind."""
    if chart == "lines":
        return {"x": value}
    name = str(value) or "input of the last linear layer"
    return {"layer": name, "depth": place + 1} if chart == "layer_lines" else {"label": name}
