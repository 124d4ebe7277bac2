"""CAS and feature denoising: their blocks and losses beside plain ones, and the child that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.fast import fast_copy
from auditor.attacking.threat import ThreatModel
from auditor.data.intake.weights import load_weights, take_model
from auditor.hardening.hardening import TrainingStep
from auditor.hardening.hardenings.cas import CAS
from auditor.hardening.hardenings.feature_denoising import FeatureDenoising
from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.layers.denoising import Denoise, median
from auditor.models.layers.insertion import last_activations, stage_ends
from auditor.models.layers.suppression import ChannelSuppression
from auditor.models.neurons import list_layers
from tests.auditor.hardening.hardenings.given import method, step_of
from tests.auditor.hardening.hardenings.plain import gradient, nll
from tests.narrow import known, sum_of
from tests.nets import SHAPE, deeper_classifier, random_images

MAPS = torch.randn(2, 6, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def classifier_of(kind: str, **values: Any) -> Classifier:
    architecture = ARCHITECTURES.build(kind, values)
    return Classifier(architecture.build(), input_shape=architecture.input_shape, num_classes=architecture.num_classes)


def block(kind: Any) -> Denoise:
    torch.manual_seed(0)
    found = Denoise(6, kind).double().eval()
    nn.init.uniform_(found.norm.weight, 0.5, 1.5)
    nn.init.normal_(known(found.norm.running_mean))
    return found


def test_the_median_is_scipys() -> None:
    expected = ndimage.median_filter(MAPS.numpy(), size=(1, 1, 3, 3), mode="nearest")
    assert np.array_equal(median(MAPS).numpy(), expected)
    assert median(MAPS[:, :, :1, :1]).equal(MAPS[:, :, :1, :1])


@pytest.mark.parametrize("kind", ["median", "mean", "nonlocal_gaussian", "nonlocal_dot"])
def test_a_block_adds_the_filtered_features(kind: Any) -> None:
    found = block(kind)
    filtered = torch.zeros_like(MAPS)
    for b in range(2):
        places = [(i, j) for i in range(5) for j in range(4)]
        at = {place: MAPS[b, :, place[0], place[1]] for place in places}
        for i, j in places:
            near = torch.stack([at[p, q] for p in range(i - 1, i + 2) for q in range(j - 1, j + 2) if (p, q) in at])
            if kind == "median":
                filtered[b, :, i, j] = torch.from_numpy(
                    ndimage.median_filter(MAPS[b].numpy(), size=(1, 3, 3), mode="nearest")
                )[:, i, j]
            elif kind == "mean":
                filtered[b, :, i, j] = near.mean(0)
            elif kind == "nonlocal_dot":
                filtered[b, :, i, j] = sum((at[i, j] @ at[place]) * at[place] for place in places) / 20
            else:
                theta, phi = found.theta.weight[:, :, 0, 0], found.phi.weight[:, :, 0, 0]
                scores = [((theta @ at[i, j]) @ (phi @ at[place]) / 3**0.5).exp() for place in places]
                filtered[b, :, i, j] = (
                    sum_of(score * at[place] for score, place in zip(scores, places, strict=True)).detach()
                    / sum_of(scores).item()
                )
    mixed = torch.einsum("oc,bchw->bohw", found.conv.weight[:, :, 0, 0], filtered)
    norm = found.norm
    mean, variance = known(norm.running_mean), known(norm.running_var)
    scale, shift = (value.view(-1, 1, 1) for value in (norm.weight / (variance + 1e-5).sqrt(), mean))
    assert torch.allclose(found(MAPS), MAPS + (mixed - shift) * scale, atol=1e-10)


def test_new_denoising_blocks_change_nothing() -> None:
    classifier = deeper_classifier()
    network = method("feature_denoising").extended(classifier)
    x = torch.rand(4, *SHAPE)
    assert torch.equal(classifier.with_network(network)(x), classifier(x))
    assert [name for name, module in network.named_modules() if isinstance(module, Denoise)] == ["2.block", "6.block"]


def test_feature_denoising_is_trained_like_pat_or_as_the_paper_has_it() -> None:
    plain = method("feature_denoising", random_start=False)
    step = step_of(plain, rows=6, batch_norm="fixed")
    assert plain.loss(step).loss.item() == pytest.approx(
        method("pat", random_start=False).loss(step).loss.item(), rel=1e-12
    )
    targeted = method("feature_denoising", targeted=True, clean_start=0.5, mix=1.0)
    assert isinstance(targeted, FeatureDenoising)
    many = step_of(targeted, rows=40)
    unmoved = (targeted.start(many) == many.x).flatten(1).all(1).double().mean()
    assert 0.2 < unmoved < 0.8
    seen: list[Tensor] = []
    many.trainee.network.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    targeted.loss(many)
    x_adv = seen[-1] * 0.5 + 0.5  # undo the normalization of tests.nets
    shift = 1 + (many.random("targets").uniform(torch.empty(40, dtype=torch.float64)) * 4).floor().long()
    targets = (many.labels + shift) % 5
    assert set(shift.tolist()) == {1, 2, 3, 4}, "every wrong class, never the label"
    before, after = (many.trainee.run(x).log_softmax(1)[torch.arange(40), targets] for x in (many.x, x_adv))
    assert (after > before).double().mean() > 0.95


def test_suppression_weights_channels_by_the_predicted_class_or_the_chosen_one() -> None:
    torch.manual_seed(0)
    found = ChannelSuppression(6, 3).double()
    logits = torch.stack([found.fc.weight @ image.flatten(1).mean(1) + found.fc.bias for image in MAPS])
    for classes, chosen in ((logits.argmax(1), None), (torch.tensor([2, 0]), torch.tensor([2, 0]))):
        found.chosen = chosen
        expected = torch.stack(
            [image * found.fc.weight[c].view(6, 1, 1) for image, c in zip(MAPS, classes, strict=True)]
        )
        assert torch.equal(found(MAPS), expected)


def cas_logits(step: TrainingStep, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits, and those of the one added classifier after module 6, written out; fixed statistics."""
    network: Any = step.trainee.network
    z = network[6].layer(network[:6]((x - 0.5) / 0.5))
    fc = network[6].block.fc
    added = z.mean((2, 3)) @ fc.weight.T + fc.bias
    chosen = added.argmax(1) if labels is None else labels
    return network[7:](z * torch.stack([fc.weight[c] for c in chosen]).view(len(x), -1, 1, 1)), added


def test_the_loss_of_cas_is_the_papers() -> None:
    hardening = method("cas", beta=1.5, random_start=False, layers=["6"])
    assert isinstance(hardening, CAS)
    step = step_of(hardening, rows=6, batch_norm="fixed")
    x_adv = step.x.clone()
    for _ in range(3):
        x_adv.requires_grad_()
        main, added = cas_logits(step, x_adv, None)
        loss = sum_of(nll(main[i], step.labels[i]) + 1.5 * nll(added[i], step.labels[i]) for i in range(6))
        (slope,) = torch.autograd.grad(loss, x_adv)
        x_adv = (step.x + (x_adv.detach() + 0.025 * slope.sign() - step.x).clamp(-0.1, 0.1)).clamp(0, 1)
    main, added = cas_logits(step, x_adv, step.labels)
    expected = sum_of(nll(main[i], step.labels[i]) + 1.5 * nll(added[i], step.labels[i]) for i in range(6)) / 6
    terms = hardening.loss(step)
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(gradient(terms.loss, step), gradient(expected, step), strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-12)
    assert all(
        module.chosen is None for module in step.trainee.network.modules() if isinstance(module, ChannelSuppression)
    )


def test_where_blocks_come_by_default() -> None:
    vgg = classifier_of("vgg", depth=16, width_factor=0.05)
    relus = [layer.name for layer in list_layers(vgg) if layer.kind == "activation"]
    # The last ReLU before each of the five pools; the three of stage 5.
    assert stage_ends(vgg) == tuple(relus[place] for place in (1, 3, 6, 9, 12))
    assert last_activations(vgg, 3) == tuple(relus[10:])
    resnet = classifier_of("resnet18-cifar", width_factor=0.05)
    assert stage_ends(resnet) == tuple(f"layer{stage}.1.relu2" for stage in (1, 2, 3, 4))
    assert last_activations(resnet, 3) == ("layer4.0.relu2", "layer4.1.relu1", "layer4.1.relu2")


@pytest.mark.parametrize("kind", ["cas", "feature_denoising"])
def test_the_child_loads_what_was_trained(kind: str, tmp_path: Path) -> None:
    """Through an upload's reading, on the meta device, and by the architecture's JSON: the kept weights to the bit."""
    parent = ARCHITECTURES.build("vgg", {"depth": 11, "width_factor": 0.1, "channels": 1, "height": 28, "width": 28})
    classifier = Classifier(parent.build(), input_shape=(1, 28, 28), num_classes=10)
    labels = np.arange(30) % 10
    data = ImageDataset(random_images(30, (1, 28, 28)), labels, [str(label) for label in range(10)])
    hardening = method(kind, steps=1)
    spec = TrainingSpec(
        hardening=hardening, epochs=1, batch_size=8, validation_steps=1, device="cpu", learning_rate=0.1
    )
    train(spec, classifier, data, folder=tmp_path)
    child = hardening.child(parent)
    child = ARCHITECTURES.build(child.kind, {k: v for k, v in child.model_dump(mode="json").items() if k != "kind"})
    stored = tmp_path / "stored.safetensors"
    take_model(tmp_path / "best.safetensors", "best.safetensors", child, stored)
    with torch.device("meta"):
        network = child.build()
    load_weights(network, stored)
    loaded = classifier.with_network(network)
    expected = classifier.with_network(hardening.extended(classifier))
    load_weights(expected.network, tmp_path / "best.safetensors")
    x = data.images(np.arange(6))
    weights = expected.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.network.state_dict().items())
    assert torch.allclose(loaded(x), expected(x), atol=1e-6), (
        "the same weights; where they lie in memory moves the rounding"
    )
    assert not torch.allclose(loaded(x), classifier(x))
    assert child.describe().endswith(f"({parent.describe()})")


@pytest.mark.parametrize("kind", ["feature-denoised", "channel-suppressed"])
def test_attacks_run_on_the_child_and_on_its_folded_copy(kind: str) -> None:
    child = classifier_of(kind, base={"kind": "vgg", "depth": 11, "width_factor": 0.1})
    fast = fast_copy(child)
    x = torch.rand(4, 3, 32, 32)
    assert fast is not child
    assert torch.allclose(fast(x), child(x), atol=1e-4)
    data = ImageDataset(random_images(8, (3, 32, 32)), child.logits(x.repeat(2, 1, 1, 1)).argmax(1).numpy())
    outcome = run_attack(
        child, ATTACKS.parse("pgd:steps=2"), ThreatModel(), data, np.arange(8),
        Misclassification(torch.from_numpy(data.labels)), seed=0, batch_size=4,
    )  # fmt: skip
    assert not outcome.blind.any()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SpecError, match="no module 'nowhere'"):
        classifier_of("feature-denoised", layers=["nowhere"])
    with pytest.raises(SpecError, match="run once and put out maps"):
        classifier_of("feature-denoised", layers=["8"])
    with pytest.raises(SpecError, match="There is no architecture 'nothing'"):
        ARCHITECTURES.build("feature-denoised", {"base": {"kind": "nothing"}})
    nested: dict[str, Any] = {"kind": "vgg"}
    for _ in range(4):
        nested = {"kind": "feature-denoised", "base": nested}
    with pytest.raises(SpecError, match="at most 3 extensions within each other"):
        ARCHITECTURES.build("feature-denoised", {"base": nested})
