"""Neuron influence under attack against a plain restatement, image by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.analyses.neuron_influence import NeuronInfluence
from auditor.neural.analysis import Finding, measured, section_of
from auditor.neural.influence.change import influences
from auditor.neural.probes.head import head_of
from auditor.neural.twins.named import CONTROL
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, attacked, subject_of
from tests.narrow import sequence
from tests.nets import SHAPE, labelled, small_classifier

N, K1, K2 = 12, 4, 3


def exact(seed: int = 0) -> Classifier:
    """Twelve last features, some below zero, and a head in float64."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 12), nn.LeakyReLU(0.3), nn.Linear(12, 4))
    return Classifier(network, input_shape=SHAPE, num_classes=4, normalization=NORMALIZATIONS["half"]).double()


def twins() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(N, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5
    return x, (x + 0.8 * noise).clamp(0, 1)


def influence(classifier: Classifier, image: Tensor, label: int, value: str) -> np.ndarray:
    """Eq. 2 for one image, by autograd: of the confidence, or of its log odds."""
    network = sequence(classifier)
    leaf = network[:3]((image[None] - 0.5) / 0.5).detach().requires_grad_()
    p = network[3](leaf)[0].softmax(0)[label]
    target = p if value == "softmax" else (p / (1 - p)).log()
    (slope,) = torch.autograd.grad(target, leaf)
    return (slope * leaf)[0].detach().numpy()


def change(finding: Finding, name: str = "twins of the audit", explained: str = "own") -> dict[str, float]:
    item = next(item for item in finding.data.model_dump(mode="json")["attacks"] if item["name"] == name)
    return {part: mean["value"] for part, mean in item["change"][explained].items()}


@pytest.mark.parametrize("explained", ["clean", "own"])
@pytest.mark.parametrize("value", ["margin", "softmax"])
def test_every_number_equals_the_restatement(explained: str, value: str, tmp_path: Path) -> None:
    classifier, (x, x_adv) = exact(), twins()
    analysis = NeuronInfluence(front=K1, tail=K2, explained=explained, value=value)
    finding = analysis.run(subject_of(classifier, Given(x, x_adv, 5), labelled(classifier, N), tmp_path))
    rows: dict[str, list[float]] = {
        key: [] for key in ("front", "tail", "remaining", "front twin", "same", "same tail")
    }
    clean_sum, twin_sum, often = np.zeros(12), np.zeros(12), np.zeros(12)
    predictions = [classifier(part).argmax(1).tolist() for part in (x, x_adv)]
    for i in range(N):
        own = predictions[0][i]
        other = own if explained == "clean" else predictions[1][i]
        clean, twin = influence(classifier, x[i], own, value), influence(classifier, x_adv[i], other, value)
        order, twin_order = np.argsort(-clean), np.argsort(-twin)
        difference = twin - clean
        rows["front"].append(difference[order[:K1]].mean())
        rows["tail"].append(difference[order[-K2:]].mean())
        rows["remaining"].append(difference[order[K1:-K2]].mean())
        rows["front twin"].append(difference[twin_order[:K1]].mean())
        rows["same"].append(len(set(order[:K1]) & set(twin_order[:K1])) / K1)
        rows["same tail"].append(len(set(order[-K2:]) & set(twin_order[-K2:])) / K2)
        clean_sum, twin_sum = clean_sum + clean, twin_sum + twin
        often[order[:K1]] += 1
    assert predictions[0] != predictions[1], "the two readings must differ"
    data = finding.data.model_dump(mode="json")
    assert change(finding, explained=explained) == pytest.approx(
        {part: np.mean(rows[part]) for part in ("front", "tail", "remaining")}, rel=1e-9
    )
    audit = data["attacks"][0]
    assert audit["change_picked_on_twin"][explained]["front"]["value"] == pytest.approx(
        np.mean(rows["front twin"]), rel=1e-9
    )
    assert audit["front_falls"][explained]["hits"] == sum(item < 0 for item in rows["front"])
    assert audit["tail_rises"][explained]["hits"] == sum(item > 0 for item in rows["tail"])
    assert data["overlap"]["front"]["mean"]["value"] == pytest.approx(np.mean(rows["same"]))
    assert data["overlap"]["tail"]["mean"]["value"] == pytest.approx(np.mean(rows["same tail"]))
    assert (data["overlap"]["front"]["random"], data["overlap"]["tail"]["random"]) == (K1 / 12, K2 / 12)
    assert np.allclose(data["by_neuron"]["influence_clean"], clean_sum / N, rtol=1e-9)
    assert np.allclose(data["by_neuron"]["influence_twin"], twin_sum / N, rtol=1e-9)
    assert np.allclose(data["by_neuron"]["front_clean"], often / N)
    sorted_clean = np.mean(
        [np.sort(influence(classifier, x[i], predictions[0][i], value))[::-1] for i in range(N)], axis=0
    )
    assert [point["clean"] for point in data["curve"]] == pytest.approx(sorted_clean.tolist(), rel=1e-9)
    assert sum(data["by_neuron"]["front_twin"]) == pytest.approx(K1)


def test_an_identical_twin_changes_nothing_and_is_doubted(tmp_path: Path) -> None:
    classifier, (x, _) = exact(), twins()
    pairs = Given(x, x.clone(), 5, np.zeros(N, bool))
    finding = NeuronInfluence(front=K1, tail=K2).run(subject_of(classifier, pairs, labelled(classifier, N), tmp_path))
    assert change(finding) == {"front": 0, "tail": 0, "remaining": 0}
    assert finding.data.model_dump(mode="json")["overlap"]["front"]["mean"]["value"] == 1
    assert [flag.name for flag in finding.flags] == ["nothing fooled"]


def test_only_the_images_that_were_fooled(tmp_path: Path) -> None:
    classifier, (x, x_adv) = exact(), twins()
    fooled = np.zeros(N, bool)
    fooled[[6, 8]] = True
    data, analysis = labelled(classifier, N), NeuronInfluence(front=K1, tail=K2, only_success=True)
    found = analysis.run(subject_of(classifier, Given(x, x_adv, 5, fooled), data, tmp_path))
    alone = NeuronInfluence(front=K1, tail=K2).run(
        subject_of(classifier, Given(x[fooled], x_adv[fooled], 5), labelled(classifier, 2), tmp_path)
    )
    assert change(found) == pytest.approx(change(alone), rel=1e-12)
    assert (
        found.data.model_dump(mode="json")["images"],
        found.data.model_dump(mode="json")["attacks"][0]["fooled"]["n"],
    ) == (2, N)
    for key, values in alone.data.model_dump(mode="json")["by_neuron"].items():
        assert np.allclose(found.data.model_dump(mode="json")["by_neuron"][key], values, rtol=1e-12)
    assert found.data.model_dump(mode="json")["attacks"][-1]["change"]["own"]["front"]["n"] == N, (
        "the control keeps all"
    )
    nobody = measured(analysis, subject_of(classifier, Given(x, x_adv, 5, np.zeros(N, bool)), data, tmp_path))
    assert "the attack succeeded on none" in nobody.declined


@pytest.mark.parametrize("batch_size", [1, 12])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    classifier, (x, x_adv) = exact(), twins()
    head = head_of(classifier)
    found = []
    for size in (5, batch_size):
        subject = subject_of(classifier, Given(x, x_adv, size))
        found.append(
            torch.cat([influences(subject.classifier, head, pair, "own", "margin").twin for pair in subject.pairs])
        )
    one, other = found
    assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_every_attack_that_makes_one_twin_and_the_control(tmp_path: Path) -> None:
    classifier = small_classifier()
    subject = attacked(classifier, labelled(classifier, 24), tmp_path, epsilon=0.1)
    names = (
        "fgsm",
        "pgd:steps=3",
        "pgd:steps=5",
        "pgd:restarts=2",
        "fgsm:budget=minimal",
        "auto-attack",
        "random-noise",
    )
    subject = subject.__class__(**vars(subject) | {"attacks": tuple(map(ATTACKS.parse, names))})
    said: list[float] = []
    subject = subject.__class__(**vars(subject) | {"on_progress": lambda share, what: said.append(share)})
    analysis = NeuronInfluence(images=10)
    finding = analysis.run(subject)
    attacks = [item["name"] for item in finding.data.model_dump(mode="json")["attacks"]]
    assert attacks == ["twins of the audit", "FGSM", "PGD (steps 3)", "PGD (steps 5)", CONTROL]
    assert len(finding.data.model_dump(mode="json")["left_out"]) == 3
    assert all(item["fooled"]["n"] == 10 for item in finding.data.model_dump(mode="json")["attacks"])
    assert abs(change(finding, CONTROL)["front"]) < abs(change(finding)["front"])
    assert said == sorted(said)
    assert said[-1] == 1


def test_the_section_builds_from_stored_data_and_draws(tmp_path: Path) -> None:
    classifier = small_classifier()
    finding = NeuronInfluence().run(attacked(classifier, labelled(classifier, 24), tmp_path, epsilon=0.1))
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert len(figures) == 4
    for figure in figures:
        assert draw(figure).to_dict()["layer"]
        assert figure.reading.endswith(".")
    front = next(row for row in figures[0].rows if row["series"] == "front")
    assert front["value"] == change(finding)["front"]


def test_a_network_without_a_head_or_with_few_features_is_declined(tmp_path: Path) -> None:
    x, x_adv = (part.float() for part in twins())
    flat = Classifier(nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten()), input_shape=SHAPE, num_classes=4)
    assert "no linear layer" in measured(NeuronInfluence(), subject_of(flat, Given(x, x_adv, 5))).declined
    finding = measured(NeuronInfluence(front=10), subject_of(exact().float(), Given(x, x_adv, 5)))
    assert "12 neurons, too few for 10 front and 5 tail" in finding.declined
