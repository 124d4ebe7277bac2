"""A training as blocks: its curves and its result."""

from __future__ import annotations

from auditor.hardening.result import BestWeights, PassCount, TrainingPoint, TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.report.training import curves, outcome
from auditor.show.blocks import Measures, Table, Text
from auditor.show.charts import draw

SPEC = TrainingSpec.load({"hardening": {"kind": "pat", "epsilon": "8/255"}, "epochs": 4})


def points() -> tuple[TrainingPoint, ...]:
    """A start, a loss on the way, and the end of the first epoch."""
    return (
        TrainingPoint(
            step=0, epoch=0, learning_rate=0.1, clean=Rate.count(90, 100), robust=Rate.count(5, 100),
            sensitivity={"conv1": 0.5, "conv2": 1.0},
        ),
        TrainingPoint(step=5, epoch=0.5, learning_rate=0.1, terms={"loss": 2.0, "adversarial": 3.0}),
        TrainingPoint(
            step=10, epoch=1, learning_rate=0.1, clean=Rate.count(85, 100), robust=Rate.count(40, 100),
            terms={"loss": 1.0, "adversarial": 2.0}, sensitivity={"conv1": 0.25, "conv2": 0.5},
        ),
    )  # fmt: skip


def result(**more: object) -> TrainingResult:
    values = {
        "spec": SPEC, "points": points(), "best": BestWeights(epoch=1, clean=Rate.count(85, 100), robust=Rate.count(40, 100)),
        "best_sha256": "a" * 64, "steps": 10, "epochs": 1.0, "stopped": "cancelled", "seconds": 12.0,
        "training": PassCount(forwards=6000, backwards=2000), "validation": PassCount(forwards=500, backwards=250),
        "training_samples": 1000, "validation_samples": 100, "parent_sha256": "b" * 64, "data_sha256": "c" * 64,
        "versions": {}, "revision": "", "device": "CPU",
    }  # fmt: skip
    return TrainingResult.model_validate(values | more)


def test_the_curves_hold_every_point_and_leave_room_for_what_is_to_come() -> None:
    accuracy, loss, sensitivity = curves(points(), SPEC, ended=False)
    assert [(row["x"], row["series"], row["value"], row["n"]) for row in accuracy.rows] == [
        (0, "clean", 0.9, 100), (0, "under PGD, L∞ ε = 8/255", 0.05, 100),
        (1, "clean", 0.85, 100), (1, "under PGD, L∞ ε = 8/255", 0.4, 100),
    ]  # fmt: skip
    assert all(row["low"] < row["value"] < row["high"] for row in accuracy.rows)
    assert [(row["x"], row["series"], row["value"]) for row in loss.rows] == [
        (0.5, "loss", 2.0), (0.5, "adversarial", 3.0), (1, "loss", 1.0), (1, "adversarial", 2.0),
    ]  # fmt: skip
    assert [(row["x"], row["series"], row["value"]) for row in sensitivity.rows] == [
        (0, "conv1", 0.5), (0, "conv2", 1.0), (1, "conv1", 0.25), (1, "conv2", 0.5),
    ]  # fmt: skip
    for figure in (accuracy, loss, sensitivity):
        assert figure.options["x_domain"] == [0, 4]
        assert figure.reading
        assert draw(figure).to_dict()["layer"][1]["encoding"]["x"]["scale"]["domain"] == [0, 4]
    assert {figure.options["x_domain"][1] for figure in curves(points(), SPEC, ended=True)} == {1}


def test_a_training_that_has_only_begun_has_no_empty_charts() -> None:
    assert curves((), SPEC, ended=False) == ()
    assert [figure.title for figure in curves(points()[1:2], SPEC, ended=False)] == ["Loss"]


def test_the_outcome_sets_the_kept_weights_beside_the_start() -> None:
    flag = Flag(name="x", severity="severe", message="It failed.", evidence="NaN", remedy="Try less.")
    measures, text, table, cost = outcome(result(flags=(flag,)))
    assert isinstance(measures, Measures)
    assert [item.value for item in measures.items] == [0.85, 0.4, 1, 1.0]
    assert isinstance(text, Text)
    assert (text.tone, text.text) == ("bad", "It failed. Evidence: NaN. Try less.")
    assert isinstance(table, Table)
    assert table.rows[1]["start"].startswith("5.0 % [")
    assert table.rows[1]["kept"].startswith("40.0 % [")
    assert isinstance(cost, Table)
    # (6000 + 2 * 2000) / 1000 and (500 + 2 * 250) / 1000
    assert [row["each"] for row in cost.rows] == [10.0, 1.0]


def test_nothing_kept_is_shown_as_nothing() -> None:
    measures, cost = outcome(result(best=BestWeights(epoch=0), points=()))
    assert isinstance(measures, Measures)
    assert [item.value for item in measures.items] == [None, None, None, 1.0]
    assert isinstance(cost, Table)
