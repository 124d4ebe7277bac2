"""The k-NS attack as an analysis: its counts against a plain loop over images and neurons, its definitions by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.paired import PairedDifference
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analyses.k_ns import KNeuronSensitivityAttack
from auditor.neural.analysis import Finding, Subject, measured, measures_of, section_of
from auditor.neural.delta.neuron_attack import BestIterates, NeuronAttack, Targets
from auditor.neural.delta.neuron_attack_outcome import NeuronAttackOutcome
from auditor.neural.delta.neuron_successes import AttackedNeurons, NeuronSuccesses, success_blocks
from auditor.show.blocks import Figure, Table, Text
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import attacked, only
from tests.auditor.neural.delta.test_neuron_attack import plain_attack
from tests.auditor.neural.delta.test_values import restated
from tests.narrow import known, sequence, typed
from tests.nets import labelled, small_classifier

QUICK: dict[str, Any] = {"neurons": 4, "iterations": 6, "pgd_steps": 5, "pgd_restarts": 1}


def find(subject: Subject, **settings: Any) -> Finding:
    finding = KNeuronSensitivityAttack(**(QUICK | settings)).run(subject)
    return Finding.model_validate_json(finding.model_dump_json())


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier().double()


@pytest.fixture(scope="module")
def data(classifier: Classifier) -> ImageDataset:
    return labelled(classifier, n=12, wrong=3)


@pytest.fixture(scope="module")
def subject(classifier: Classifier, data: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return attacked(classifier, data, tmp_path_factory.mktemp("twins"), epsilon=48 / 255)


def plain_successes(
    classifier: Classifier, x: Tensor, threat: ThreatModel, count: int, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """The most sensitive neurons of each image, random and least sensitive ones among those with a finite score, (3, B, count),
    and whether the attack on each changed the prediction."""
    features, logits = sequence(classifier)[:5](classifier.normalize(x)), classifier(x)
    delta, _ = restated(features, logits, sequence(classifier)[5].weight, 0.0)
    std = features.numpy().std(0)
    with np.errstate(all="ignore"):
        score = np.where(np.isfinite(delta) & (std > 0), np.abs(delta) / std, np.inf)
    lists = []
    for b, row in enumerate(score):
        draw = torch.rand(72, generator=torch.Generator().manual_seed(derive_seed(0, "k-ns", b))).numpy()
        ranked = [neuron for neuron in range(72) if np.isfinite(row[neuron])]
        assert count <= len(ranked) < 72
        by_key = [sorted(ranked, key=key) for key in (row.__getitem__, draw.__getitem__, (-row).__getitem__)]
        lists.append([order[:count] for order in by_key])
    order = np.array(lists).transpose(1, 0, 2)
    hits = np.zeros(order.shape, bool)
    for place in np.ndindex(order.shape):
        _, b, _ = place
        neuron = int(order[place])
        change = delta[b, neuron]
        if np.isinf(change):
            change = delta[b][np.isfinite(delta[b])].max()
        goal = features[b].clone()
        goal[neuron] += change
        predicted = int(logits[b].argmax())
        _, hits[place] = plain_attack(classifier, x[b], goal, neuron, predicted, threat, iterations, "output")
    return order, hits


@pytest.mark.parametrize("threat", [ThreatModel(epsilon=120 / 255), ThreatModel(norm=Norm.L2, epsilon=2.5)], ids=str)
def test_every_success_is_that_of_a_plain_loop(subject: Subject, data: ImageDataset, threat: ThreatModel) -> None:
    """True gradients everywhere; ranks, draws, targets and attacks restated in the test."""
    x = data.images(subject.ids).double()
    order, hits = plain_successes(subject.classifier, x, threat, 4, 6)
    each = [(place, int(order[place]), hits[place]) for place in np.ndindex(order.shape)]
    found = find(replace(subject, threat=threat), fake_relu="never").data.model_dump(mode="json")
    for name, ours in zip(("sensitive", "random", "least"), hits, strict=True):
        assert (0 if name == "least" else 1) <= ours.sum() < ours.size
        assert found["by_rank"][name] == ours.sum(0).tolist()
        assert found[name]["changed"] == np.logical_or.accumulate(ours, 1).sum(0).tolist()
    assert not found["identity_relu"]
    attacks = {(b, neuron): bool(hit) for (_, b, _), neuron, hit in each}  # of one on several lists, one counts
    expected = np.zeros((2, 72), np.int64)
    for (_, neuron), hit in attacks.items():
        expected[:, neuron] += (1, hit)
    assert found["by_neuron"] == {"attacked": expected[0].tolist(), "fell": expected[1].tolist()}


def test_a_neuron_without_a_change_of_its_own_aims_at_the_largest_of_its_image(
    subject: Subject, data: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the attack is given, for all 72 neurons of every image, some without a finite Delta."""
    given: list[Targets] = []

    def attack(self: NeuronAttack, x: Tensor, targets: Targets) -> BestIterates:
        given.append(targets)
        return BestIterates(x, torch.zeros(len(x), dtype=torch.bool))

    monkeypatch.setattr(NeuronAttack, "__call__", attack)
    find(subject, neurons=72)
    x, classifier = data.images(subject.ids).double(), subject.classifier
    features, logits = sequence(classifier)[:5](classifier.normalize(x)), classifier(x)
    delta, _ = restated(features, logits, sequence(classifier)[5].weight, 0.0)
    assert np.isinf(delta).sum() > 100
    largest = np.where(np.isfinite(delta), delta, -np.inf).max(1, keepdims=True)
    change = np.where(np.isinf(delta), largest, delta)
    changes, neurons = torch.cat([each.change for each in given]), torch.cat([each.neuron for each in given])
    dead = torch.cat([each.passing for each in given])
    assert neurons.tolist() == list(range(72)) * 12, "on all lists, and attacked once"
    assert dead.tolist() == (features == 0).flatten().tolist()
    assert np.allclose(changes, change.ravel(), rtol=1e-12)


def test_pgd_is_judged_alike_on_the_same_images_and_ball(subject: Subject, data: ImageDataset) -> None:
    predicted = subject.classifier(data.images(subject.ids).double()).argmax(1)
    pgd = ATTACKS.parse("pgd:steps=5,step_size=0.5,restarts=1")
    outcome = run_attack(
        subject.classifier, pgd, subject.threat, data, subject.ids, Misclassification(predicted), seed=0, batch_size=5
    )
    found = find(subject).data.model_dump(mode="json")
    wrong = predicted.numpy() != data.labels
    assert found["pgd"] == {
        "changed": outcome.fooled.sum(),
        "error": (outcome.fooled | wrong).sum(),
        "error_correct": (outcome.fooled & ~wrong).sum(),
    }
    twins = np.concatenate([(subject.classifier(p.x_adv.double()).argmax(1)).numpy() for p in subject.pairs])
    assert found["audit"]["changed"] == (twins != predicted.numpy()).sum()
    assert (found["images"], found["correct"]) == (12, 9)


def test_more_neurons_never_succeed_less_and_the_budget_holds(subject: Subject) -> None:
    found = find(subject, neurons=16, iterations=4).data.model_dump(mode="json")
    for name in ("sensitive", "random", "least"):
        for key, hits in found[name].items():
            assert hits == sorted(hits), key
            assert len(hits) == 16
    low, middle, high = found["norms"]
    assert 0 < low <= middle <= high <= subject.threat.epsilon * (1 + 1e-9)


def test_the_first_neurons_do_not_depend_on_how_many_there_are(subject: Subject) -> None:
    few, many = (find(subject, neurons=k).data.model_dump(mode="json") for k in (2, 5))
    for name in ("sensitive", "random", "least"):
        assert many[name]["changed"][:2] == few[name]["changed"]
        assert many["by_rank"][name][:2] == few["by_rank"][name]


def test_the_batch_size_changes_nothing(subject: Subject) -> None:
    one, other = (find(replace(subject, batch_size=size)).data.model_dump(mode="json") for size in (3, 64))
    assert one | {"norms": None} == other | {"norms": None}
    assert one["norms"] == pytest.approx(other["norms"], rel=1e-9)


def test_the_definitions_of_success_by_hand() -> None:
    """Four images: right and unchanged, right and changed by the second neuron, wrong and unchanged, wrong and changed."""
    yes, no = True, False
    seen = NeuronAttackOutcome(
        predicted=np.array([0, 1, 2, 3]),
        correct=np.array([yes, yes, no, no]),
        twin=np.array([no, yes, no, no]),
        aimless=np.array([yes, no, no, no]),
        sensitive=np.array([[no, no], [no, yes], [no, no], [yes, no]]),
        random=np.zeros((4, 2), bool),
        least=np.array([[no, no], [no, no], [no, no], [yes, no]]),
        norm=np.array([[np.nan, np.nan], [np.nan, 0.3], [np.nan, np.nan], [0.1, np.nan]]),
        attacked=np.array([[yes, yes, no]] * 3 + [[no, yes, yes]]),
        fell=np.array([[no, no, no], [no, yes, no], [no, no, no], [no, yes, no]]),
    )
    counts = NeuronSuccesses.of(seen, np.array([yes, no, no, no]), layer="fc", threat="", twins="", identity_relu=False)
    found = counts.model_dump(mode="json")
    # Changed: the fourth by the first neuron, the second by the second. In error of all: the two wrong ones at least.
    assert found["sensitive"] == {"changed": [1, 2], "error": [2, 3], "error_correct": [0, 1]}
    assert found["random"] == {"changed": [0, 0], "error": [2, 2], "error_correct": [0, 0]}
    assert found["pgd"] == {"changed": 1, "error": 3, "error_correct": 1}
    assert found["audit"] == {"changed": 1, "error": 3, "error_correct": 1}
    assert found["by_rank"]["sensitive"] == [1, 1]
    assert found["by_neuron"] == {"attacked": [3, 4, 1], "fell": [0, 2, 0]}
    assert found["norms"] == pytest.approx([0.1, 0.2, 0.3])
    assert (found["images"], found["correct"], found["aimless"]) == (4, 2, 1)
    assert (found["beyond_pgd"]["only_a"], found["beyond_pgd"]["only_b"], found["beyond_pgd"]["value"]) == (1, 2, 0.25)
    assert found["beyond_random"]["value"] == 0.5
    assert found["least"] == {"changed": [1, 1], "error": [2, 2], "error_correct": [0, 0]}
    assert {name: item["value"] for name, item in found["first_beyond"].items()} == {"random": 0.25, "least": 0.0}


def test_masked_gradients_are_flagged(tmp_path: Path) -> None:
    """Logits times a million: the softmax saturates and PGD sees no gradient; the features have theirs."""
    classifier = small_classifier()
    with torch.no_grad():
        sequence(classifier)[5].weight *= 1e6
        sequence(classifier)[5].bias *= 1e6
    data = labelled(classifier, n=40, wrong=0)
    finding = find(attacked(classifier, data, tmp_path, epsilon=0.3), neurons=6, iterations=20, pgd_steps=20)
    assert known(typed(finding.data, NeuronSuccesses).beyond_pgd.low) > 0
    (flag,) = [flag for flag in finding.flags if flag.name == "restricted attack beats PGD"]
    assert flag.severity == "warning"


def made_up(**changes: dict[str, float]) -> NeuronSuccesses:
    """What doubts read: differences in favour of k-NS, over PGD and over random neurons."""
    clear = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 100, "only_a": 2, "only_b": 22, "p": 0.0}
    said = {"beyond_pgd": clear | {"value": -0.2, "low": -0.3, "high": -0.1}, "beyond_random": clear} | changes
    return only(NeuronSuccesses, **{key: PairedDifference.model_validate(clear | value) for key, value in said.items()})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, {}),
        (
            {"beyond_random": {"value": 0.05, "low": -0.02, "high": 0.12, "n": 100}},
            {"random neurons do as well": "info"},
        ),
        ({"beyond_random": {"value": 0.0, "low": 0.0, "high": 0.0, "n": 100}}, {"random neurons do as well": "info"}),
        (
            {"beyond_pgd": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 100, "only_a": 2, "only_b": 22}},
            {"restricted attack beats PGD": "warning"},
        ),
        (
            {"beyond_pgd": {"value": 0.02, "low": -0.1, "high": 0.1, "n": 100, "only_a": 10, "only_b": 12}},
            {"restricted attack beats PGD": "info"},
        ),
    ],
)
def test_each_doubt_has_its_bound(changes: dict[str, dict[str, float]], said: dict[str, str]) -> None:
    assert {flag.name: flag.severity for flag in KNeuronSensitivityAttack().doubts(made_up(**changes))} == said


def test_random_neurons_that_are_all_the_neurons_do_as_well(subject: Subject) -> None:
    """With every neuron among the k there is no difference left between the most sensitive and random ones."""
    finding = find(subject, neurons=72, iterations=2)
    assert typed(finding.data, NeuronSuccesses).beyond_random.value == 0
    assert "random neurons do as well" in {flag.name for flag in finding.flags}


def test_a_plain_network_is_not_flagged_for_masking(subject: Subject) -> None:
    finding = find(subject, pgd_steps=40, pgd_restarts=3)
    assert known(typed(finding.data, NeuronSuccesses).beyond_pgd.value) <= 0
    assert "restricted attack beats PGD" not in {flag.name for flag in finding.flags}


def test_images_that_no_neuron_can_change_count_as_failures(tmp_path: Path) -> None:
    """Class 0 leads by its bias, and every neuron sees the classes alike."""
    classifier = small_classifier()
    with torch.no_grad():
        sequence(classifier)[5].weight[:] = 0.1
        sequence(classifier)[5].bias[:] = torch.tensor([1.0, 0, 0, 0, 0])
    found = typed(find(attacked(classifier, labelled(classifier, n=3, wrong=0), tmp_path)).data, NeuronSuccesses)
    assert (found.aimless, found.images) == (3, 3)
    assert found.sensitive.changed == (0, 0, 0, 0)
    assert found.norms is None


def test_fewer_images_than_there_are_and_more_neurons(subject: Subject) -> None:
    finding = find(subject, images=1, neurons=100, iterations=1, pgd_steps=1)
    found = typed(finding.data, NeuronSuccesses)
    assert found.images == 1
    assert len(found.sensitive.changed) == 72


def test_a_norm_without_a_gradient_step_is_declined(subject: Subject) -> None:
    other = replace(subject, threat=ThreatModel(norm=Norm.L1, epsilon=1))
    assert "not in L1" in measured(KNeuronSensitivityAttack(), other).declined


def test_the_section_comes_from_the_data(subject: Subject) -> None:
    finding = find(subject)
    blocks = section_of(finding).blocks
    figures = [block for block in blocks if isinstance(block, Figure)]
    for figure in figures:
        draw(figure).to_dict()
    series = {"most sensitive neurons", "random neurons", "least sensitive neurons"}
    assert {row["series"] for row in figures[0].rows} >= series | {"PGD"}
    assert {row["series"] for row in figures[1].rows} == series
    assert all(row["n"] == 12 for figure in figures for row in figure.rows)
    (table,) = [block for block in blocks if isinstance(block, Table)]
    rows = [row["attack"] for row in table.rows]
    assert rows[:7] == ["1-NS", "4-NS", "1-random", "4-random", "1-least sensitive", "4-least sensitive", "PGD"]
    assert "among those with a finite score" in table.caption


def test_a_finding_from_before_the_second_control_shows_what_it_has(subject: Subject) -> None:
    stored = find(subject).model_dump(mode="json")
    data = {key: value for key, value in stored["data"].items() if key not in ("least", "first_beyond", "by_neuron")}
    data["by_rank"] = {key: value for key, value in data["by_rank"].items() if key != "least"}
    older = Finding.model_validate(stored | {"data": data, "revision": 0})
    blocks = section_of(older).blocks
    (table,) = [block for block in blocks if isinstance(block, Table)]
    assert [row["attack"] for row in table.rows][:5] == ["1-NS", "4-NS", "1-random", "4-random", "PGD"]
    assert "drawn from all" in typed(blocks[0], Text).text
    assert "after all steps" in typed(blocks[-1], Text).text
    assert not measures_of([older])


def test_progress_grows_to_the_end_and_may_stop_the_work(subject: Subject) -> None:
    shares: list[float] = []
    find(replace(subject, batch_size=5, on_progress=lambda share, what: shares.append(share)))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert len({round(share, 3) for share in shares}) > 10

    def stop(share: float, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(replace(subject, on_progress=stop))


@pytest.mark.parametrize(
    ("made", "said"), [({"attacked": (1,), "fell": (1,)}, "made its success certain"), (None, "after all steps")]
)
def test_the_norms_of_older_findings_are_called_what_they_are(subject: Subject, made: Any, said: str) -> None:
    by_neuron = made and AttackedNeurons(**made)
    found = typed(find(subject).data, NeuronSuccesses)
    older = found.model_copy(update={"norms": (0.1, 0.2, 0.3), "by_neuron": by_neuron})
    assert said in typed(list(success_blocks(older))[-1], Text).text
