"""Several evaluations beside each other: a defense and its controls, and the sweeps over a parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from auditor.comparison import show_difference
from auditor.defending.metrics import PairedTest
from auditor.defending.table import DefenseEvaluation
from auditor.errors import MismatchError
from auditor.metrics import Rate, paired_difference
from auditor.report.blocks import AnyBlock, Column, Figure, Section, Table, Text
from auditor.report.defense import SHARES, budget_named

Sweep = Sequence[tuple[Any, DefenseEvaluation]]
"""Values of a parameter, each with the evaluation there."""


def controls_section(
    evaluation: DefenseEvaluation,
    name: str,
    controls: Mapping[str, DefenseEvaluation],
    tests: Sequence[PairedTest] = (),
) -> Section:
    """The defense beside its controls, by their names, on the same samples. Raises MismatchError for other samples."""
    for other, control in controls.items():
        if (control.samples, control.threat) != (evaluation.samples, evaluation.threat):
            raise MismatchError(
                f"{other} was evaluated on other samples, or within another threat model.",
                "Evaluate both with the same seed, samples and threat.",
            )
    blocks: list[AnyBlock] = [
        Text(
            text="Controls move the image too, but know nothing: a random direction, a candidate picked at random, noise. A "
            "defense that does no better than these has not shown that its idea is what helps."
        ),
        _rates(evaluation, name, controls),
        _figure({name: evaluation, **controls}),
    ]
    if tests:
        blocks.append(_tests(tests))
    return Section(key="controls", title="Beside the controls", blocks=tuple(blocks))


def _rates(evaluation: DefenseEvaluation, name: str, controls: Mapping[str, DefenseEvaluation]) -> Table:
    rows = []
    for other, found in {name: evaluation, **controls}.items():
        row = {"name": other, "benign": str(found.benign), "headline": str(found.headline.accuracy), "difference": "–"}
        row |= {budget: _show(static_success(found, budget)) for budget in ("fixed", "minimal")}
        if found is not evaluation:
            paired = paired_difference(np.array(found.headline.held), np.array(evaluation.headline.held))
            row |= {"difference": show_difference(paired), "p": f"{paired.p:.2g}"}
        rows.append(row)
    return Table(
        columns=(
            Column(key="name", title="Defense"),
            Column(key="benign", title="Benign [95 %]"),
            Column(key="fixed", title=f"Static success, {budget_named('fixed', evaluation)}"),
            Column(key="minimal", title=f"Static success, {budget_named('minimal', evaluation)}"),
            Column(key="headline", title="Lowest robust accuracy [95 %]"),
            Column(key="difference", title=f"{name} minus this, points [95 %]"),
            Column(key="p", title="p (McNemar)"),
        ),
        rows=tuple(rows),
        caption="Static success is the mean over the static attacks. The difference is of the lowest robust accuracy, on the "
        f"same {len(evaluation.samples)} samples, with the paired interval of Agresti and Min and McNemar's exact test; the lowest "
        "row may be that of another attack for each.",
    )


def _figure(found: Mapping[str, DefenseEvaluation]) -> Figure:
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


def _tests(tests: Sequence[PairedTest]) -> Table:
    return Table(
        title="Paired tests over the attacks",
        columns=(
            Column(key="name", title="Comparison"),
            Column(key="difference", title="Mean difference, points", format="+.1f"),
            Column(key="t", title="t", format=".3g"),
            Column(key="p", title="p", format=".2g"),
            Column(key="adjusted", title="p, corrected (Holm)", format=".2g"),
        ),
        rows=tuple(
            {"name": item.name, "difference": 100 * item.difference, "t": item.t, "p": item.p, "adjusted": item.adjusted}
            for item in tests
        ),
        caption="The test of the NIP paper: a paired t-test over the attacks' success rates, here corrected for the number of "
        "tests. Attacks are no independent samples of anything, so that even the corrected p are too small; trust the paired "
        "differences on samples above.",
    )  # fmt: skip


def static_success(evaluation: DefenseEvaluation, budget: str) -> Rate | float | None:
    """Defense success over the static attacks of a budget: a rate where there is one attack, else the mean; None without any."""
    rates = [row.success for row in evaluation.static if row.budget == budget and row.success.value is not None]
    if len(rates) == 1:
        return rates[0]
    return float(np.mean([rate.value for rate in rates])) if rates else None


def _show(success: Rate | float | None) -> str | None:
    return f"{100 * success:.1f} %" if isinstance(success, float) else None if success is None else str(success)


def _ends(success: Rate | float | None) -> dict[str, Any]:
    if isinstance(success, Rate):
        return {"value": success.value, "low": success.low, "high": success.high, "n": success.n}
    return {"value": success, "low": None, "high": None, "n": None}


def sweeps_section(sweeps: Mapping[str, Sweep]) -> Section:
    """A figure for each parameter that was varied."""
    figures = tuple(sweep_figure(name, sweep) for name, sweep in sweeps.items())
    return Section(key="sweeps", title="What the parameters change", blocks=figures)


def sweep_figure(name: str, sweep: Sweep) -> Figure:
    """Benign accuracy, static success and the lowest robust accuracy against one parameter; names of layers stand in order."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in sweep)
    what = name.replace("_", " ")
    rows = [
        _place(value, place, numeric) | {"series": series, **_ends(rate)}
        for place, (value, item) in enumerate(sweep)
        for series, rate in (
            ("benign accuracy", item.benign),
            ("static success, closest image", static_success(item, "minimal")),
            ("static success, within epsilon", static_success(item, "fixed")),
            ("lowest robust accuracy", item.headline.accuracy),
        )
    ]
    shown = {"y": "right behind the defense", "share": True, "height": 280}
    reading = (
        f"Each point is a whole evaluation with another value of {what}, fitted anew on the same images and judged on the same "
        "samples; higher is better. Bands or bars: 95 % Wilson intervals; means over several attacks have none. What counts "
        "is the lowest line."
    )
    return Figure(
        chart="lines" if numeric else "layer_lines",
        title=f"Against {what}",
        rows=tuple(rows),
        options=shown | ({"x": what} if numeric else {}),
        reading=reading,
    )


def _place(value: Any, place: int, numeric: bool) -> dict[str, Any]:
    return {"x": value} if numeric else {"layer": str(value) or "input of the last linear layer", "depth": place + 1}
