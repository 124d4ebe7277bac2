"""Sensitive neuron stabilizing beside its formula, and the neurons that it chooses beside those found by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.hardening.hardening import HARDENINGS, TrainingStep
from auditor.hardening.hardenings.sns import SNS
from auditor.hardening.spec import TrainingSpec
from auditor.kit.errors import EvaluationError, SpecError
from tests.auditor.hardening.hardenings.given import data, ground_of, method, step_of, trainee_of
from tests.auditor.hardening.hardenings.plain import gradient, nll
from tests.narrow import sequence, sum_of, typed
from tests.nets import deeper_classifier


def sns(**more: Any) -> SNS:
    found = method("sns", **({"layers": ["0", "4"], "share": 0.3, "random_start": False} | more))
    assert isinstance(found, SNS)
    return found


def walked(step: TrainingStep, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs of the two convolutions, and the logits, module by module in the mode in which the network learns."""
    network = step.trainee.network
    assert isinstance(network, nn.Sequential)
    kept, value = {}, (x - 0.5) / 0.5
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    with step.trainee.learning():
        for name, module in network.named_children():
            own = {key.split(".")[1]: item for key, item in statistics.items() if key.split(".")[0] == name}
            value = torch.func.functional_call(module, own, value)
            kept[name] = value
    return {"0": kept["0"], "4": kept["4"]}, value


def by_hand(step: TrainingStep, x_adv: Tensor, chosen: dict[str, list[int]], weights: dict[str, float]) -> Tensor:
    clean, logits = walked(step, step.x)
    twin, logits_adv = walked(step, x_adv)
    n = len(step.x)
    loss = sum_of(0.5 * nll(logits[i], step.labels[i]) + 0.5 * nll(logits_adv[i], step.labels[i]) for i in range(n)) / n
    for layer, neurons in chosen.items():
        for i in range(n):
            for m in neurons:
                dim = clean[layer][i, m].numel()
                loss = loss + weights[layer] * (clean[layer][i, m] - twin[layer][i, m]).abs().sum() / dim / n
    return loss


def neurons(step: TrainingStep) -> dict[str, list[int]]:
    return {name.removeprefix("neurons of "): value.tolist() for name, value in step.memory.items()}


@pytest.mark.parametrize("batch_norm", ["learn", "fixed"])
@pytest.mark.parametrize("variant", ["sen", "dyn", "all", "rand"])
def test_the_loss_is_the_papers(variant: str, batch_norm: Any) -> None:
    hardening = sns(variant=variant, weights=[5.0, 2.0], freeze_below=False)
    step = step_of(hardening, rows=6, batch_norm=batch_norm)
    chosen = neurons(step)
    # 30 % of 8 and of 10 channels, rounded down; all of them.
    assert {layer: len(found) for layer, found in chosen.items()} == (
        {"0": 8, "4": 10} if variant == "all" else {"0": 2, "4": 3}
    )
    expected = by_hand(step, hardening.adversarial(step), chosen, {"0": 5.0, "4": 2.0})
    wanted = gradient(expected, step)
    got = hardening.loss(step).loss
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    for one, other in zip(gradient(got, step), wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-12)


def test_the_neurons_are_those_that_move_most_under_pgd() -> None:
    classifier = deeper_classifier()
    dataset = data(classifier)
    hardening = sns(pairs=40)
    memory = hardening.prepare(ground_of(trainee_of(hardening, classifier), dataset))
    x, labels = dataset.images(np.arange(40)), torch.from_numpy(dataset.labels)
    x_adv = x.clone()
    for _ in range(3):
        x_adv.requires_grad_()
        loss = -torch.log_softmax(classifier(x_adv), 1)[torch.arange(40), labels].sum()
        (slope,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x + (x_adv.detach() + 0.1 * 10**-0.5 * slope.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    for layer, count in (("0", 2), ("4", 3)):
        part = sequence(classifier)[: int(layer) + 1]
        moved = (part(classifier.normalize(x)) - part(classifier.normalize(x_adv))).abs().mean((0, 2, 3))
        assert memory[f"neurons of {layer}"].tolist() == sorted(moved.argsort(descending=True)[:count].tolist())


def test_only_dyn_looks_again_after_an_epoch_and_the_passes_are_counted() -> None:
    classifier = deeper_classifier()
    for variant in ("sen", "dyn"):
        hardening = sns(variant=variant, pairs=40, renewal_pairs=20)
        ground = ground_of(trainee_of(hardening, classifier), data(classifier))
        memory = hardening.prepare(ground)
        # Three steps and a last look at each of 40 images, and a pass for the features of each side.
        assert ground.trainee.passes == (40 * (4 + 2), 40 * 3)
        with torch.no_grad():
            sequence(ground.trainee.network)[4].weight *= torch.linspace(0.1, 30, 10).view(-1, 1, 1, 1)
        again = hardening.renew(ground, memory)
        if variant == "sen":
            assert again is memory
        else:
            assert again["neurons of 4"].tolist() == [7, 8, 9]


def test_random_neurons_differ_by_seed_alone() -> None:
    classifier = deeper_classifier()
    hardening = sns(variant="rand", layers=["4"], weights=[5.0])
    ground = ground_of(trainee_of(hardening, classifier), data(classifier))
    found = [
        hardening.prepare(type(ground)(**vars(ground) | {"seed": seed}))["neurons of 4"].tolist() for seed in range(6)
    ]
    assert found[3] == hardening.prepare(ground)["neurons of 4"].tolist()
    assert len({tuple(item) for item in found}) > 3


def test_adaptive_balance_gives_every_layer_the_same_share_and_keeps_the_sum() -> None:
    plain, balanced = sns(weights=[1.0]), sns(weights=[1.0], balance="adaptive")
    step = step_of(plain, rows=6, batch_norm="fixed")
    one, other = plain.loss(step).parts["movement"], balanced.loss(step).parts["movement"]
    assert one.item() == pytest.approx(other.item(), rel=1e-12)
    shares = []
    for layer in ("0", "4"):
        alone = sns(layers=[layer], weights=[1.0]).loss(
            TrainingStep(**vars(step) | {"memory": {f"neurons of {layer}": step.memory[f"neurons of {layer}"]}})
        )
        shares.append(alone.parts["movement"])
    # d/dw of sum_l (mean / L_l) L_l, with the factors held: the mean of L times the sum of d log L_l / dw.
    mean = (shares[0] + shares[1]).item() / 2
    parts = [gradient(share, step) for share in shares]
    wanted = [mean * (a / shares[0].item() + b / shares[1].item()) for a, b in zip(*parts, strict=True)]
    for got, expected in zip(gradient(other, step), wanted, strict=True):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-14)
    assert balanced.flags(step.start, step.memory)[0].name == "beyond the paper"


def test_the_mean_over_neurons_is_the_sum_divided_by_their_number() -> None:
    step = step_of(sns(layers=["4"]), rows=6, batch_norm="fixed")
    total, mean = (sns(layers=["4"], reduce=reduce).loss(step).parts["movement"].item() for reduce in ("sum", "mean"))
    assert total == pytest.approx(3 * mean, rel=1e-12)


def test_the_clean_side_gets_no_gradient_where_it_is_detached() -> None:
    hardening = sns(detach_clean=True, weights=[7.0], layers=["4"], freeze_below=False)
    step = step_of(hardening, rows=6, batch_norm="fixed")
    x_adv = hardening.adversarial(step)
    clean, _ = walked(step, step.x)
    twin, _ = walked(step, x_adv)
    chosen = neurons(step)["4"]
    moved = 7 * (clean["4"].detach() - twin["4"])[:, chosen].abs().mean((2, 3)).sum(1).mean()
    wanted = gradient(moved, step)
    got = gradient(hardening.loss(step).parts["movement"], step)
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(got, wanted, strict=True))


def test_static_twins_attack_the_network_of_the_start() -> None:
    hardening = sns(twins="start")
    step = step_of(hardening, rows=6)
    first = hardening._twins(step)
    with torch.no_grad():
        for value in step.trainee.network.parameters():
            value.mul_(-1)
    assert torch.equal(first, hardening._twins(step))
    assert not torch.equal(first, sns()._twins(step))


def test_the_layers_below_are_kept_by_default() -> None:
    trainee = trainee_of(method("sns"), deeper_classifier())
    assert set(trainee.parameters) == {f"{layer}.{name}" for layer in (4, 5, 8, 10) for name in ("weight", "bias")}
    with trainee.learning():
        assert [module.training for module in sequence(trainee.network)] == [False, False] + [True] * 9


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SpecError, match="expected one, or one for each of the 2 layers named, got 3"):
        sns(weights=[1, 2, 3])
    with pytest.raises(SpecError, match="no layer 'nowhere'"):
        step_of(sns(layers=["0", "nowhere"]))
    with pytest.raises(SpecError, match="from_scratch: the method freezes layers"):
        TrainingSpec.load({"hardening": {"kind": "sns"}, "from_scratch": True})
    assert TrainingSpec.load({"hardening": {"kind": "sns", "freeze_below": False}, "from_scratch": True})
    assert typed(HARDENINGS.parse("sns:layers=0+4,weights=5+2"), SNS).weights == (5.0, 2.0)
    step = TrainingStep(**vars(step_of(sns())) | {"memory": {"neurons of gone": torch.tensor([0])}})
    with pytest.raises(EvaluationError, match="no layer gone"):
        sns().loss(step)
