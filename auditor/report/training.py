"""A training as blocks: its curves while it runs, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from auditor.metrics import Rate
from auditor.report.blocks import AnyBlock, Column, Figure, Measure, Measures, Table, Text
from auditor.training_result import Point, TrainingResult
from auditor.training_spec import TrainingSpec

TONES: dict[str, Literal["note", "warning", "bad"]] = {"info": "note", "warning": "warning", "severe": "bad"}
EPOCHS = "epochs done"


def curves(points: Sequence[Point], spec: TrainingSpec, *, ended: bool) -> tuple[Figure, ...]:
    """Validation accuracy, loss and sensitivity of the layers against the epochs; a figure without any point is left out.

    Those of a training that has not ``ended`` leave room for its remaining epochs.
    """
    found = (
        Figure(
            chart="lines",
            title="Validation accuracy",
            rows=tuple(
                {"x": point.epoch, "series": name, "value": rate.value, "low": rate.low, "high": rate.high, "n": rate.n}
                for point in points
                for name, rate in (("clean", point.clean), (f"under PGD, {spec.threat}", point.robust))
                if rate is not None
            ),
            options={"x": EPOCHS, "y": "accuracy", "share": True},
            reading="Share of the images kept back from training that are classified correctly, and that stay so under PGD with "
            f"{spec.validation_steps} steps; higher is better. Bands: 95 % Wilson intervals. So weak an attack flatters: audit "
            "the child before you quote a number.",
        ),
        Figure(
            chart="lines",
            title="Loss",
            rows=tuple(
                {"x": point.epoch, "series": name.replace("_", " "), "value": value}
                for point in points
                for name, value in point.terms.items()
            ),
            options={"x": EPOCHS, "y": "loss", "format": ".3g"},
            reading="What the training descends, as a mean since the point before, and the parts that it is made of, before they "
            "are weighted; lower is better. A rise that does not end is a sign of too high a learning rate.",
        ),
        Figure(
            chart="lines",
            title="Sensitivity of layers",
            rows=tuple(
                {"x": point.epoch, "series": layer, "value": value}
                for point in points
                for layer, value in point.sensitivity.items()
            ),
            options={"x": EPOCHS, "y": "sensitivity", "format": ".3g"},
            reading="How far the neurons of a layer move under that attack (mean over the layer; Zhang et al. 2020, eq. 1), on "
            "validation images; lower is stiller. Layers have scales of their own: follow each line by itself.",
        ),
    )
    last = max((point.epoch for point in points), default=0)
    shared = {"height": 260, "x_domain": [0, last if ended else max(spec.steps(1000) / 1000, last)]}
    return tuple(figure.model_copy(update={"options": figure.options | shared}) for figure in found if figure.rows)


def outcome(result: TrainingResult) -> tuple[AnyBlock, ...]:
    """The numbers of the weights that were kept, the doubts, and what the training cost."""
    best = result.best
    return (
        Measures(
            items=(
                _accuracy("Clean, on validation images", best.clean),
                _accuracy(f"Under PGD, {result.spec.threat}", best.robust),
                Measure(title="Epoch of the kept weights", value=best.epoch if best.epoch else None),
                Measure(title="Epochs done", value=round(result.epochs, 2)),
            )
        ),
        *(Text(text=flag.text, tone=TONES[flag.severity]) for flag in result.flags),
        *(Text(text=note, tone="note") for note in result.notes),
        *_before_and_after(result),
        _cost(result),
    )


def _accuracy(title: str, rate: Rate | None) -> Measure:
    return rate.measure(title, higher_is_better=True) if rate is not None else Measure(title=title, value=None)


def _before_and_after(result: TrainingResult) -> tuple[Table, ...]:
    """The validation at the start beside that of the kept weights."""
    first, best = result.start, result.best
    if first.clean is None or best.clean is None:
        return ()
    rows = (
        {"what": "clean accuracy", "start": str(first.clean), "kept": str(best.clean)},
        {"what": f"under PGD, {result.spec.threat}", "start": str(first.robust), "kept": str(best.robust)},
    )
    columns = (
        Column(key="what", title="On the same validation images"),
        Column(key="start", title="New weights [95 %]" if result.spec.from_scratch else "Parent [95 %]"),
        Column(key="kept", title="Child [95 %]"),
    )
    caption = (
        f"n = {best.clean.n}, PGD with {result.spec.validation_steps} steps. The child's weights were chosen on these images, "
        "which flatters them a little; the audit of parent and child is the fair comparison."
    )
    return (Table(columns=columns, rows=rows, caption=caption),)


def _cost(result: TrainingResult) -> Table:
    """Passes per training image, a unit in which trainings on the same images compare."""
    rows: list[dict[str, Any]] = [
        {"what": "training", "forwards": result.training.forwards, "backwards": result.training.backwards},
        {"what": "validation", "forwards": result.validation.forwards, "backwards": result.validation.backwards},
    ]
    for row in rows:
        row["each"] = (row["forwards"] + 2 * row["backwards"]) / result.training_samples
    return Table(
        title="Cost",
        columns=(
            Column(key="what", title="Passes of"),
            Column(key="forwards", title="Forward", format=",.0f"),
            Column(key="backwards", title="Backward", format=",.0f"),
            Column(key="each", title="For each training image", format=",.1f"),
        ),
        rows=tuple(rows),
        caption=f"{result.training_samples:,} images trained on, {result.validation_samples:,} kept back for validation; the "
        f"last column counts a backward pass as two. {result.seconds:,.0f} s on {result.device}"
        + (f", in {result.processes} processes." if result.processes > 1 else "."),
    )
