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


def curves(points: Sequence[Point], spec: TrainingSpec) -> tuple[Figure, ...]:
    """Validation accuracy, loss and sensitivity of the layers against the epochs; a figure without any point is left out."""
    accuracy = [
        {"x": point.epoch, "series": name, "value": rate.value, "low": rate.low, "high": rate.high}
        for point in points
        for name, rate in (("clean", point.clean), (f"under PGD, {spec.threat}", point.robust))
        if rate is not None
    ]
    loss = [
        {"x": point.epoch, "series": name.replace("_", " "), "value": value, "low": None, "high": None}
        for point in points
        for name, value in point.terms.items()
    ]
    sensitivity = [
        {"x": point.epoch, "series": layer, "value": value, "low": None, "high": None}
        for point in points
        for layer, value in point.sensitivity.items()
    ]
    return tuple(
        _figure(title, rows, y, format, reading)
        for title, rows, y, format, reading in (
            (
                "Validation accuracy", accuracy, "accuracy on validation images", ".0%",
                "Share of the images kept back from training that are classified correctly, and that stay so under PGD with "
                f"{spec.validation_steps} steps; higher is better. Bands: 95 % Wilson intervals. Weak attacks flatter: audit the "
                "child before you quote a number.",
            ),
            (
                "Loss", loss, "loss (mean since the point before)", ".3g",
                "What the training descends, and the parts that it is made of before they are weighted; lower is better. A rise "
                "that does not end is a sign of too high a learning rate.",
            ),
            (
                "Sensitivity of layers", sensitivity, "mean neuron sensitivity", ".3g",
                "How far the neurons of a layer move under the attack (Zhang et al. 2020, eq. 1), on validation images; lower is "
                "stiller. Layers have scales of their own: read each line by itself.",
            ),
        )
        if rows
    )  # fmt: skip


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
        *(
            Text(text=" ".join(filter(None, (flag.message, flag.evidence, flag.remedy))), tone=TONES[flag.severity])
            for flag in result.flags
        ),
        _cost(result),
    )


def _figure(title: str, rows: list[dict[str, Any]], y: str, format: str, reading: str) -> Figure:
    options = {"x": EPOCHS, "y": y, "format": format, "height": 260}
    return Figure(chart="curves", title=title, rows=tuple(rows), options=options, reading=reading)


def _accuracy(title: str, rate: Rate | None) -> Measure:
    return rate.measure(title, higher_is_better=True) if rate is not None else Measure(title=title, value=None)


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
        f"last column counts a backward pass as two. {result.seconds:,.0f} s on {result.device}.",
    )
