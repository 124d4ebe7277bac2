"""A defense studied whole: controls of its size, sweeps that fit anew, tests restated, and going on after a kill."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from auditor.attacking.threat import ThreatModel
from auditor.defending import evaluation as defense_evaluation
from auditor.defending.comparing import EVERY_ATTACK, GRADIENT_ATTACKS, SampleTest
from auditor.defending.controls import controls, size_of_change
from auditor.defending.defense import DEFENSES
from auditor.defending.defenses.nip import NIP as Nip
from auditor.defending.evaluation import DefenseEvaluation, EvaluationSpec, FittedDefense, evaluate_defense
from auditor.defending.fit import FitSpec, fit
from auditor.defending.flags import no_better, seen_before
from auditor.defending.measuring import measure_table
from auditor.defending.sweep import Sweep
from auditor.defending.table import DefenseTable
from auditor.kit.errors import EvaluationError, SpecError
from auditor.models.dataset import ImageDataset
from auditor.models.defended import NOTHING, DefendedClassifier
from auditor.report.defense_evaluation import render_evaluation
from tests.narrow import known, typed
from tests.nets import deeper_classifier, labelled, small_classifier

QUICK: dict[str, Any] = {
    "steps": 5, "restarts": 1, "draws": 2, "nearest": 2, "queries": 20, "decision_steps": 40, "batch_size": 16,
    "threat": {"epsilon": 0.1}, "static": [{"kind": "pgd", "steps": 3}, {"kind": "fgsm"}, {"kind": "bim", "steps": 2}],
}  # fmt: skip
NIP = {"kind": "nip", "front": 2, "tail": 2, "quorum": 0.8, "inputs": 20}
SWEEPS = ({"parameter": "eta", "values": [0.5, 1]}, {"parameter": "epsilon", "values": [0.01]})


def fitted_defense(data: ImageDataset, *defenses: dict[str, Any]) -> FittedDefense:
    spec = FitSpec.load({"defenses": defenses, "samples": 30})
    fitted = fit(spec, deeper_classifier(), data)
    return FittedDefense(spec, fitted.states, fitted.lineage, data if spec.learns else None)


def spec(**more: Any) -> EvaluationSpec:
    return EvaluationSpec.load({"evaluation": QUICK, "samples": 24, "sweep_samples": 8} | more)


@pytest.fixture(scope="module")
def data() -> ImageDataset:
    return labelled(deeper_classifier(), 60, wrong=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def found(data: ImageDataset, folder: Path) -> DefenseEvaluation:
    return evaluate_defense(spec(sweeps=SWEEPS), deeper_classifier(), fitted_defense(data, NIP), data, folder=folder)


def test_every_table_is_on_the_same_samples_and_sweeps_on_the_first_of_them(
    found: DefenseEvaluation, data: ImageDataset
) -> None:
    assert found.table.samples == data.select(24, 0).tolist()
    assert all(item.table.samples == found.table.samples for item in found.controls)
    for sweep in found.sweeps:
        assert all(point.table.samples == data.select(8, 0).tolist() for point in sweep.points)


def test_a_swept_parameter_is_fitted_anew_and_epsilon_is_not(found: DefenseEvaluation) -> None:
    eta, epsilon = found.sweeps
    assert [(point.value, point.table.facts[0]["images"]) for point in eta.points] == [(0.5, 10), (1.0, 20)]
    (point,) = epsilon.points
    assert (point.value, point.table.threat.epsilon) == (0.01, 0.01)
    assert point.table.facts == found.table.facts


def untimed(table: DefenseTable) -> str:
    """All of a table but how long it took."""
    return re.sub(r'"seconds\w*":[^,}]+', "", table.model_dump_json())


def test_classes_matched_by_hand_give_the_tables_of_the_right_labels(
    found: DefenseEvaluation, data: ImageDataset
) -> None:
    turned = ImageDataset(data._images, (data.labels + 1) % 5, data.class_names)
    match = {f"kind {(label + 1) % 5}": label for label in range(5)}
    fitting = FitSpec.load({"defenses": [NIP], "samples": 30, "match": match})
    fitted = fit(fitting, deeper_classifier(), turned)
    assert known(fitted.classes).how == "hand"
    stored = FittedDefense(fitting, fitted.states, fitted.lineage, turned)
    wanted = spec(sweeps=[{"parameter": "eta", "values": [0.5]}], controls=False, match=match)
    ours = evaluate_defense(wanted, deeper_classifier(), stored, turned)
    assert untimed(ours.table) == untimed(found.table)
    anew, right = (one.sweeps[0].points[0].table for one in (ours, found))
    assert untimed(anew) == untimed(right), "what is fitted anew is matched, too"
    assert known(ours.classes).how == "hand"
    assert all(row.changed for row in known(ours.classes).rows)
    assert "matched by hand" in render_evaluation(ours, title="x")


def test_the_tests_by_samples_are_those_of_scipy_and_of_holm(found: DefenseEvaluation) -> None:
    tests = found.sample_tests
    assert (tests[0].other, tests[0].attack) == ("no defense", GRADIENT_ATTACKS)
    for control in found.controls:
        names = [row.name for row in control.table.robust]
        mine = [test for test in tests if test.other == control.title]
        assert [test.attack for test in mine] == [
            EVERY_ATTACK,
            *(r.name for r in found.table.robust if r.name in names),
        ]
        for test in mine[1:]:
            ours = np.array(next(row.held for row in found.table.robust if row.name == test.attack))
            theirs = np.array(next(row.held for row in control.table.robust if row.name == test.attack))
            assert (test.only_defense, test.only_other) == ((ours & ~theirs).sum(), (theirs & ~ours).sum())
            assert test.difference == pytest.approx(ours.mean() - theirs.mean())
            split = test.only_defense + test.only_other
            assert test.p == pytest.approx(stats.binomtest(test.only_other, split).pvalue if split else 1.0)
    # Holm, plainly: of the tests in the order of p, the largest of all (n - i) p so far, at most 1.
    highest = 0.0
    for place, test in enumerate(sorted(tests, key=lambda item: item.p)):
        highest = min(1.0, max(highest, (len(tests) - place) * test.p))
        assert test.adjusted == pytest.approx(highest)


def test_the_tests_over_attacks_are_those_of_scipy(found: DefenseEvaluation) -> None:
    assert found.attack_tests
    for test in found.attack_tests:
        control = next(item.table for item in found.controls if item.title == test.other)
        pairs = [
            (ours.success.value, theirs.success.value)
            for ours, theirs in zip(found.table.static, control.static, strict=True)
            if ours.budget == test.budget and ours.success.n
        ]
        ours, theirs = np.array(pairs, float).T
        assert test.attacks == len(pairs) >= 2
        assert test.difference == pytest.approx((ours - theirs).mean())
        if test.t is not None and np.ptp(ours - theirs) > 0:
            assert (test.t, test.p) == pytest.approx(tuple(stats.ttest_rel(ours, theirs)))


def test_it_goes_on_after_the_tables_that_are_there(
    found: DefenseEvaluation, data: ImageDataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(folder.glob("table-*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 1 + 4 + 3
    lost = files[-1]
    lost.unlink()
    made: list[tuple[Any, ...]] = []
    told: list[int] = []
    begun: list[int] = []
    whole = measure_table

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(defense_evaluation, "measure_table", counted)
    again = evaluate_defense(
        spec(sweeps=SWEEPS), deeper_classifier(), fitted_defense(data, NIP), data, folder=folder,
        on_checkpoint=told.append, on_resumed=lambda: begun.append(len(told)),
    )  # fmt: skip
    assert (len(made), told, begun) == (1, [1, 2, 3, 4, 5, 6, 7, 8], [7])
    assert again.table == found.table
    assert again.sample_tests == found.sample_tests
    # Another request takes none of them.
    made.clear()
    evaluate_defense(
        spec(samples=4, controls=False), deeper_classifier(), fitted_defense(data, NIP), data, folder=folder
    )
    assert len(made) == 1


def test_the_size_of_a_change_is_known(data: ImageDataset) -> None:
    """A random direction of root mean square 0.05 on grey images, far from the box: 0.05."""
    classifier = small_classifier()
    grey = ImageDataset(np.full((10, 6, 6, 3), 0.5, np.float32), np.zeros(10, np.int64))
    one = DEFENSES.build("random-direction", {"size": 0.05}).wrap(classifier, NOTHING)
    assert size_of_change(one, list(grey.batches(np.arange(10), 4))) == pytest.approx(0.05, rel=1e-5)
    inside = DEFENSES.build("sap", {"passes": 1}).wrap(classifier, NOTHING)
    assert isinstance(inside, DefendedClassifier)
    assert size_of_change(inside, list(grey.batches(np.arange(10), 4))) == 0


def test_controls_have_the_size_of_the_defense_and_the_pool_of_nip(data: ImageDataset) -> None:
    one = fitted_defense(data, {"kind": "bit-depth"}, NIP)
    direction, small, noise, candidate = controls(one.spec.defenses, one.states, 0.03)
    assert direction.defenses[0].settings() == {"size": 0.03}
    assert small.defenses[0].settings() == {"size": 0.008}, "one that is no larger than closest images need"
    assert len({item.title for item in (direction, small, noise, candidate)}) == 4
    for size in (0.008, 0.004):
        kept = [item.defenses[0] for item in controls([DEFENSES.build("jpeg", {})], [NOTHING], size)]
        assert [item.kind for item in kept] == ["random-direction", "gaussian-noise"]
        assert {item.settings()["size"] for item in kept} == {size}
    assert noise.defenses[0].settings() == {"size": 0.03, "scale": "absolute"}
    assert [item.kind for item in candidate.defenses] == ["bit-depth", "random-candidate"]
    assert candidate.defenses[1].settings() == one.spec.defenses[1].settings()
    refitted = fit(FitSpec(defenses=candidate.defenses, samples=30), deeper_classifier(), data)
    for name, value in refitted.states[1].tensors.items():
        assert torch.equal(value, candidate.states[1].tensors[name]), name
    alone = fitted_defense(data, NIP)
    assert controls(alone.spec.defenses, alone.states, 0.03)[2].defenses[0].settings()["scale"] == "nip"
    (inner,) = controls([DEFENSES.build("nip-n", {"front": 2})], [NOTHING], 0.0)
    assert inner.defenses == (DEFENSES.build("random-candidate-n", {"front": 2}),)
    inside = DEFENSES.build("sap", {})
    assert controls([inside], [NOTHING], 0.0) == ()


def test_a_sweep_is_understood_as_the_defenses_have_it() -> None:
    stack = (DEFENSES.build("bit-depth", {}), DEFENSES.build("nip", {}))
    points = Sweep.parse("k=0+7").points(stack, ThreatModel())
    nips = [typed(point.defenses[1], Nip) for point in points]
    assert [(point.value, nip.front, nip.tail) for point, nip in zip(points, nips, strict=True)] == [
        (0, 0, 0),
        (7, 7, 7),
    ]
    assert all(point.defenses[0] == stack[0] for point in points)
    (point,) = Sweep.parse("epsilon=4/255").points(stack, ThreatModel())
    assert (point.value, point.threat.epsilon, point.defenses) == (4 / 255, 4 / 255, stack)
    (point,) = Sweep(parameter="layer", values=("features.3",)).points(stack, ThreatModel())
    assert (point.value, typed(point.defenses[1], Nip).layer) == ("features.3", "features.3")
    with pytest.raises(
        SpecError, match=r"no parameter 'quality' here\. There are: epsilon, bits, eta, front, inputs, k"
    ):
        Sweep.parse("quality=5").points(stack, ThreatModel())


def outcome(difference: float, adjusted: float, attack: str = EVERY_ATTACK) -> SampleTest:
    return SampleTest(
        other="Noise", attack=attack, difference=difference, low=-1, high=1, n=10, only_defense=0, only_other=0,
        p=adjusted, adjusted=adjusted,
    )  # fmt: skip


@pytest.mark.parametrize(("difference", "adjusted", "doubted"), [(0.2, 0.01, 0), (0.2, 0.06, 1), (-0.2, 0.01, 1)])
def test_a_control_that_does_as_well_is_a_doubt(difference: float, adjusted: float, doubted: int) -> None:
    jpeg, noise = DEFENSES.build("jpeg", {}), DEFENSES.build("gaussian-noise", {})
    tests = [outcome(difference, adjusted), outcome(-1, 0, "Square")]
    assert len(no_better((jpeg,), tests)) == doubted
    assert no_better((noise,), tests) == ()


def test_known_images_are_counted(data: ImageDataset) -> None:
    assert seen_before(0, 10, data) == ()
    (flag,) = seen_before(3, 10, data)
    assert (flag.severity, flag.evidence) == ("warning", "3 of 10 images")


def test_no_unseen_image_left_is_refused(data: ImageDataset) -> None:
    one = fitted_defense(data, NIP)
    one = one._replace(spec=one.spec.model_copy(update={"samples": None}))
    with pytest.raises(EvaluationError, match="No image is left to evaluate on"):
        evaluate_defense(spec(unseen=True), deeper_classifier(), one, data)
