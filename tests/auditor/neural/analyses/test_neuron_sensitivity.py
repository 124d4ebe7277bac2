"""Neuron sensitivity and ratio against a plain restatement of eq. 1 and eq. 11 (Zhang et al. 2020) in float64."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import ThreatModel
from auditor.kit.errors import EvaluationError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.neurons import kind_of
from auditor.neural.analyses.neuron_sensitivity import NeuronSensitivity, Sensitivity
from auditor.neural.analysis import Pair, Subject, detail_of, measured, section_of
from auditor.neural.found import Nothing
from auditor.neural.ranking.sensitivity import LayerSensitivity
from auditor.show.blocks import Figure, Measures, Table
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.narrow import known, sequence, typed
from tests.nets import SHAPE, small_classifier


def network_with_statistics(kind: str, values: dict[str, object]) -> nn.Module:
    """An architecture with random weights whose normalization layers have seen some data."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES.build(kind, values)
    network = architecture.build()
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(16, *architecture.input_shape))
    return network.eval()


def features_of(network: nn.Module, *batches: Tensor) -> dict[str, list[np.ndarray]]:
    """Every layer's output for each batch, kept whole, by hooks of the test's own, as float64."""
    features: dict[str, list[np.ndarray]] = {}
    handles = []
    for name, module in network.named_modules():
        if kind_of(module) is not None:
            features[name] = []
            keep = lambda _m, _i, output, name=name: features[name].append(output.detach().double().numpy().copy())  # noqa: E731
            handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for handle in handles:
        handle.remove()
    return features


def restated(features: dict[str, list[np.ndarray]], zero: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Eq. 1 and eq. 11, image by image and neuron by neuron, in float64."""
    answer = {}
    for name, (clean, moved) in features.items():
        images, neurons = clean.shape[:2]
        sigma, ratio = np.zeros(neurons), np.zeros(neurons)
        for m in range(neurons):
            ratios = []
            for i in range(images):
                change, norm = np.abs(clean[i, m] - moved[i, m]).sum(), np.abs(clean[i, m]).sum()
                sigma[m] += change / clean[i, m].size / images
                if norm > 0:
                    ratios.append(change / norm)
                elif zero == "one":
                    ratios.append(1.0)
            ratio[m] = np.mean(ratios) if ratios else np.nan
        answer[name] = sigma, ratio
    return answer


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    seen = ~np.isnan(expected)
    return float((np.abs(found - expected)[seen] / np.maximum(np.abs(expected)[seen], 1e-12)).max(initial=0.0))


@pytest.fixture(
    scope="module", params=[("vgg", {"depth": 11}), ("resnet-cifar", {"depth": 20})], ids=["vgg-11", "resnet-20"]
)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return network_with_statistics(*request.param)


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(12, 3, 32, 32, generator=generator)
    noise = torch.rand(x.shape, generator=generator) * 2 - 1
    return x, (x + 8 / 255 * noise).clamp(0, 1)


def layers_of(analysis: NeuronSensitivity, subject: Subject) -> tuple[LayerSensitivity, ...]:
    return analysis.find(subject).layers


@pytest.mark.parametrize("zero", ["one", "skip"])
def test_every_layer_equals_the_restatement(network: nn.Module, pairs: tuple[Tensor, Tensor], zero: str) -> None:
    """The same float32 features on both sides: what the accumulation adds is below 1e-6, neuron by neuron."""
    found = NeuronSensitivity(zero=zero).find(subject_of(classifier_of(network), Given(*pairs, batch_size=12)))
    both = features_of(network, torch.cat(pairs))  # side by side in one batch, as the analysis runs them
    expected = restated({name: [kept[:12], kept[12:]] for name, (kept,) in both.items()}, zero)
    assert found.images == 12
    assert [layer.name for layer in found.layers] == list(expected), (
        "every layer, nested ones too, in the order of execution"
    )
    for layer in found.layers:
        sigma, ratio = expected[layer.name]
        assert relative_error(layer.sensitivity, sigma) <= 1e-6, layer.name
        assert relative_error(layer.ratio, ratio) <= 1e-6, layer.name


def test_in_float64_nothing_is_left_of_the_difference(network: nn.Module, pairs: tuple[Tensor, Tensor]) -> None:
    """Two separate passes in the restatement, one by side in the analysis, other batches: equal to rounding."""
    exact = copy.deepcopy(network).double()
    x, x_adv = (image.double() for image in pairs)
    layers = layers_of(NeuronSensitivity(), subject_of(classifier_of(exact).double(), Given(x, x_adv, batch_size=5)))
    expected = restated(features_of(exact, x, x_adv), "one")
    for layer in layers:
        sigma, ratio = expected[layer.name]
        assert relative_error(layer.sensitivity, sigma) <= 1e-9, layer.name
        assert relative_error(layer.ratio, ratio) <= 1e-9, layer.name


def test_on_a_real_network_under_a_real_attack_float32_is_enough(real_pairs: tuple[Classifier, Tensor, Tensor]) -> None:
    """Against a float64 forward pass of the same network. A ratio divides by a clean output that may be nearly zero, which
    magnifies the rounding of the network's own float32 pass, not ours."""
    classifier, x, x_adv = real_pairs
    layers = layers_of(NeuronSensitivity(), subject_of(classifier, Given(x, x_adv, batch_size=5)))
    exact = copy.deepcopy(classifier).double()
    expected = restated(features_of(exact, x.double(), x_adv.double()), "one")
    for layer in layers:
        sigma, ratio = expected[f"network.{layer.name}"]
        assert relative_error(layer.sensitivity, sigma) <= 1e-5, layer.name
        assert relative_error(layer.ratio, ratio) <= 2e-4, layer.name


@pytest.fixture(scope="module")
def real_pairs(shared: Path) -> tuple[Classifier, Tensor, Tensor]:
    state = torch.load(shared / "weights" / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)["state_dict"]
    network = ARCHITECTURES.build("resnet-cifar", {"depth": 20}).build()
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    classifier = Classifier(network, input_shape=(3, 32, 32), num_classes=10, normalization=NORMALIZATIONS["imagenet"])
    with np.load(shared / "data" / "cifar10-test.npz") as arrays:
        data = ImageDataset(arrays["images"][:12], arrays["labels"][:12].astype(np.int64))
    kept: dict[int, Tensor] = {}

    def keep(finished: Finished) -> None:
        kept.update(zip(finished.position.tolist(), finished.x_adv, strict=True))

    run_attack(
        classifier, ATTACKS.parse("pgd"), ThreatModel(), data, np.arange(12),
        Misclassification(torch.from_numpy(data.labels)), seed=0, batch_size=12, early_stop=False, on_finished=keep,
    )  # fmt: skip
    return classifier, data.images(np.arange(12)), torch.stack([kept[position] for position in range(12)])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(network: nn.Module, pairs: tuple[Tensor, Tensor], batch_size: int) -> None:
    exact = copy.deepcopy(network).double()
    x, x_adv = (image.double() for image in pairs)
    whole = layers_of(NeuronSensitivity(), subject_of(classifier_of(exact).double(), Given(x, x_adv, batch_size=12)))
    parts = layers_of(
        NeuronSensitivity(), subject_of(classifier_of(exact).double(), Given(x, x_adv, batch_size=batch_size))
    )
    for one, other in zip(whole, parts, strict=True):
        assert np.allclose(one.sensitivity, other.sensitivity, rtol=1e-10, atol=0)
        assert np.allclose(one.ratio, other.ratio, rtol=1e-10, atol=0)


def classifier_of(network: nn.Module) -> Classifier:
    return Classifier(network, input_shape=(3, 32, 32), num_classes=10)


def hand_made(pairs: Given, **settings: object) -> LayerSensitivity:
    """A ReLU on the image itself, so that the features are known."""
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    classifier = Classifier(network, input_shape=(2, 2, 2), num_classes=2)
    layers = layers_of(NeuronSensitivity(**settings), subject_of(classifier, pairs))
    return layers[0]


def two_neurons() -> Given:
    # Image 1: neuron 0 goes from (1, 1, 1, 1)/4 to (1, 1, 1, 3)/4; neuron 1 is 0 and becomes (0, 0, 0, 1).
    # Image 2: neuron 0 does not move; neuron 1 goes from (1, 0, 0, 1) to (0, 1, 0, 1).
    x = torch.tensor([[[1, 1, 1, 1], [0, 0, 0, 0]], [[2, 2, 2, 2], [4, 0, 0, 4]]]).view(2, 2, 2, 2) / 4
    y = torch.tensor([[[1, 1, 1, 3], [0, 0, 0, 4]], [[2, 2, 2, 2], [0, 4, 0, 4]]]).view(2, 2, 2, 2) / 4
    return Given(x, y, 1, fooled=np.array([True, False]))


def test_by_hand() -> None:
    layer = hand_made(two_neurons())
    # Neuron 0: |change| sums to 0.5 and 0 over 4 positions: mean 0.125 and 0, over two images 0.0625.
    # Neuron 1: 1 and 2 (the absolute value is taken before the sum): 0.25 and 0.5, over two images 0.375.
    assert layer.sensitivity.tolist() == [0.0625, 0.375]
    # Ratios: neuron 0: 0.5/1 and 0/2 -> 0.25. Neuron 1: 1 by rule, and 2/2 = 1 -> 1.
    assert layer.ratio.tolist() == [0.25, 1.0]
    assert layer.zero_share == 0.25  # one of four (image, neuron) cases


@pytest.mark.parametrize(("zero", "expected"), [("one", 1.0), ("skip", 1.0), ("eps", (1 / 1e-6 + 2 / (2 + 1e-6)) / 2)])
def test_the_rules_for_a_clean_output_of_zero(zero: str, expected: float) -> None:
    assert hand_made(two_neurons(), zero=zero).ratio[1] == pytest.approx(expected)


def test_a_neuron_that_is_always_zero_has_no_ratio_when_zeros_are_skipped() -> None:
    x = torch.zeros(3, 2, 2, 2)
    assert np.isnan(hand_made(Given(x, x + 0.5, 2), zero="skip").ratio).all()


def test_only_the_images_that_were_fooled() -> None:
    assert hand_made(two_neurons(), only_success=True).sensitivity.tolist() == [0.125, 0.25]
    nobody = two_neurons()
    nobody.fooled[:] = False
    with pytest.raises(EvaluationError, match="the attack succeeded on none"):
        hand_made(nobody, only_success=True)


def test_the_most_sensitive_share_is_at_least_one_neuron_and_ties_go_to_the_lower_index() -> None:
    def top(values: np.ndarray, share: float) -> list[int]:
        layer = LayerSensitivity(
            name="layer", kind="conv", type="Conv2d", sensitivity=values, ratio=values, zero_share=0.0
        )
        return layer.top(share).tolist()

    assert top(np.array([1.0, 3.0, 3.0, 2.0]), 0.1) == [1]
    assert top(np.array([1.0, 3.0, 3.0, 2.0]), 0.5) == [1, 2]
    assert len(top(np.arange(64.0), 0.1)) == 6  # floor(0.1 * 64)
    assert len(top(np.arange(100.0), 0.29)) == 29  # though 0.29 * 100 is 28.999999999999996


def test_memory_does_not_grow_with_the_images(network: nn.Module) -> None:
    """Between batches the same few tensors are alive: one number per neuron and sum, and no feature map."""
    x = torch.rand(2, 3, 32, 32)
    alive: list[int] = []

    class Watched(Given):
        def __iter__(self) -> Iterator[Pair]:
            for _ in range(8):
                gc.collect()
                alive.append(sum(item.numel() for item in gc.get_objects() if isinstance(item, Tensor)))
                yield Pair(np.arange(2), x, x, torch.zeros(2, dtype=torch.int64), np.ones(2, bool))

    subject = subject_of(classifier_of(network), Watched(x, x, 2))
    gc.collect()
    gc.freeze()  # what other tests have left is not looked at
    try:
        NeuronSensitivity().find(subject)
    finally:
        gc.unfreeze()
    assert len(set(alive[1:])) == 1, alive
    neurons = sum(
        module.get_parameter("weight").shape[0]
        for module in network.modules()
        if kind_of(module) in ("conv", "norm", "linear")
    )
    assert alive[1] - alive[0] <= 2 * 4 * neurons  # four sums of each layer; activations have as many neurons again


def test_hooks_come_off_again_also_after_an_error(network: nn.Module, pairs: tuple[Tensor, Tensor]) -> None:
    classifier = classifier_of(network)

    class Broken(Given):
        def __iter__(self) -> Iterator[Pair]:
            yield from super().__iter__()
            raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        NeuronSensitivity().find(subject_of(classifier, Broken(*pairs, batch_size=6)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_section_and_its_details_show_the_measured_numbers(
    network: nn.Module, pairs: tuple[Tensor, Tensor]
) -> None:
    classifier = classifier_of(network)
    analysis = NeuronSensitivity()
    finding = analysis.run(subject_of(classifier, Given(*pairs, batch_size=6)))
    layers = layers_of(analysis, subject_of(classifier, Given(*pairs, batch_size=6)))
    figure = next(block for block in section_of(finding).blocks if block.type == "figure")
    layer = layers[4]
    row = next(row for row in figure.rows if row["layer"] == layer.name)
    assert row["mean"] == pytest.approx(layer.sensitivity.mean())
    top = np.sort(layer.sensitivity)[::-1][: max(1, len(layer.sensitivity) // 10)]
    assert row["top_mean"] == pytest.approx(top.mean())
    _, bars, table = detail_of(finding, (layer.name,))
    best = int(np.argmax(layer.sensitivity))
    assert typed(bars, Figure).rows[0]["neuron"] == best == typed(table, Table).rows[0]["neuron"]
    (measures,) = detail_of(finding, (layer.name, str(best)))
    assert [item.value for item in typed(measures, Measures).items][2] == 1
    assert detail_of(finding, ("no such layer",)) == ()


def test_the_section_tells_zeros_and_how_normalization_changes_the_ranking() -> None:
    """A filter made 100 times larger, undone by the normalization after it, leads its layer before but not after."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    network = sequence(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)).eval())
    with torch.no_grad():
        network[0].weight[5] *= 100
        network[0].bias[5] *= 100
        known(norm.running_var)[5] = 1e4
    x = torch.rand(6, *SHAPE)
    pairs = Given(x, (x + 0.05 * torch.randn(x.shape)).clamp(0, 1), 3)
    classifier = Classifier(network, input_shape=SHAPE, num_classes=3)
    finding = NeuronSensitivity().run(subject_of(classifier, pairs))
    *_, layers, scale = section_of(finding).blocks
    conv, after, relu = (layer.sensitivity for layer in typed(finding.data, Sensitivity).layers[:3])
    assert typed(layers, Table).rows[2]["zero_share"] == pytest.approx(
        (network[:3](x).flatten(2) == 0).all(2).float().mean().item()
    )
    (row,) = typed(scale, Table).rows
    assert row["agreement"] == pytest.approx(stats.spearmanr(conv, after).statistic, abs=1e-12)
    assert int(np.argmax(conv)) == 5
    assert row["shared"] == float(np.argmax(after) == 5)
    assert row["chance"] == pytest.approx(1.959964 / 7**0.5)
    assert len(relu) == 8


def test_what_a_network_does_not_allow_is_said_and_the_audit_goes_on(tmp_path: Path) -> None:
    x = torch.rand(4, *SHAPE)
    nothing_fooled = Given(x, x, 2, np.zeros(4, bool))
    finding = measured(NeuronSensitivity(only_success=True), subject_of(small_classifier(), nothing_fooled))
    assert "the attack succeeded on none" in finding.declined
    assert finding.data == Nothing()
    (block,) = section_of(finding).blocks
    assert block.type == "text"
    assert "Not measured" in block.text
    assert detail_of(finding, ("0",)) == ()
