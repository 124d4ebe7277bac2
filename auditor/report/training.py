"""A training as blocks: its curves while it runs, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from auditor.hardening.result import TrainingPoint, TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.kit.statistics.estimate import Rate
from auditor.report.classes import class_match_table
from auditor.show.blocks import AnyBlock, Column, Figure, Measure, Measures, Row, Table, Text

TONES: dict[str, Literal["note", "warning", "bad"]] = {"info": "note", "warning": "warning", "severe": "bad"}
EPOCHS = "epochs done"


def curves(points: Sequence[TrainingPoint], spec: TrainingSpec, *, ended: bool) -> tuple[Figure, ...]:
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
            reading="Share of the images held out from training that are classified correctly, and that stay so under "
            f"PGD with {spec.validation_steps} steps; higher is better. Bands: 95 % Wilson intervals. Such a weak "
            "attack makes the model look better than it is: audit the child before you quote a number.",
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
            reading="The training loss and its parts before weighting, averaged since the previous point; lower is "
            "better. If the loss keeps rising, the learning rate is too high.",
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
            reading="How far the neurons of a layer move under that attack (mean over the layer; Zhang et al. 2020, "
            "eq. 1), on validation images; lower means more stable. Layers have different scales: read each line on "
            "its own.",
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
        *(
            [Text(text=f"Classes of the data: matched {result.classes.describe()}.", tone="note")]
            if result.classes is not None
            else []
        ),
        *class_match_table(result.classes, None),
    )


def _accuracy(title: str, rate: Rate | None) -> Measure:
    return rate.measure(title, higher_is_better=True) if rate is not None else Measure(title=title, value=None)


def _before_and_after(result: TrainingResult) -> tuple[Table, ...]:
    """The validation at the start and that of the kept weights."""
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
        "which makes them look slightly better; the audit of parent and child is the fair comparison."
    )
    return (Table(columns=columns, rows=rows, caption=caption),)


def _cost(result: TrainingResult) -> Table:
    """Passes per training image, a unit in which trainings on the same images compare."""
    rows: list[Row] = [
        {"what": "training", "forwards": result.training.forwards, "backwards": result.training.backwards},
        {"what": "validation", "forwards": result.validation.forwards, "backwards": result.validation.backwards},
    ]
    for row in rows:
        row["each"] = (row["forwards"] + 2 * row["backwards"]) / result.training_samples
    made = result.provenance
    return Table(
        title="Cost",
        columns=(
            Column(key="what", title="Passes of"),
            Column(key="forwards", title="Forward", format=",.0f"),
            Column(key="backwards", title="Backward", format=",.0f"),
            Column(key="each", title="For each training image", format=",.1f"),
        ),
        rows=tuple(rows),
        caption=f"{result.training_samples:,} images trained on, {result.validation_samples:,} held out for "
        f"validation; the last column counts a backward pass as two. {made.seconds:,.0f} s on {made.device}"
        + (f", in {made.processes} processes." if (made.processes or 1) > 1 else "."),
    )
