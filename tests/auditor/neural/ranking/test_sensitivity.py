"""What twins do to every layer, on layers worked out by hand; the meter's sums are tested with the analysis of that name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.neural.ranking.sensitivity import ImageMeter, LayerChange, SensitivityMeter, image_means, watch_changes
from tests.narrow import sequence
from tests.nets import SHAPE, Linear, small_classifier


class Shuffled(nn.Module):
    """Puts two images into one row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x, x])).mean((2, 3))[: len(x)]


def changes(classifier: Classifier, x: Tensor, x_adv: Tensor) -> list[LayerChange]:
    seen: list[LayerChange] = []
    watch_changes(classifier, x, x_adv, seen.append)
    return seen


def test_every_layer_is_compared_image_by_image() -> None:
    classifier = small_classifier().double()
    x, x_adv = torch.rand(2, 4, *SHAPE, dtype=torch.float64)
    conv, _, _, linear = changes(classifier, x, x_adv)
    assert [conv.positions, linear.positions] == [36, 1]
    network, normalize = sequence(classifier), classifier.normalize
    clean, moved = network[0](normalize(x)), network[0](normalize(x_adv))
    assert torch.allclose(conv.difference, (clean - moved).abs().sum((2, 3)), rtol=1e-12)
    assert torch.allclose(conv.clean, clean.abs().sum((2, 3)), rtol=1e-12)
    assert torch.allclose(linear.difference, (classifier(x) - classifier(x_adv)).abs(), rtol=1e-12)


def test_averaging_over_space_first_never_gives_more() -> None:
    """The variant of mindarmour: positive and negative changes cancel, so it is at most sigma, and less somewhere."""
    classifier = small_classifier().double()
    x, x_adv = torch.rand(2, 4, *SHAPE, dtype=torch.float64)
    meter = SensitivityMeter(classifier)
    meter.add(x, x_adv)
    sigma = torch.from_numpy(meter.layers()[0].sensitivity)
    clean, moved = (sequence(classifier)[0](classifier.normalize(image)) for image in (x, x_adv))
    cancelled = (clean.mean((2, 3)) - moved.mean((2, 3))).abs().mean(0)
    assert (cancelled <= sigma).all()
    assert (cancelled < 0.9 * sigma).any()


def test_the_rules_for_zeros() -> None:
    change = LayerChange("layer", "conv", "Conv2d", 4, torch.tensor([[2.0, 0.0, 3.0]]), torch.tensor([[4.0, 0.0, 0.0]]))
    assert change.ratio("one").tolist() == [[0.5, 1.0, 1.0]]
    assert change.ratio("skip").isnan().tolist() == [[False, True, True]]
    assert change.ratio("eps")[0].tolist() == pytest.approx([2 / (4 + 1e-6), 0, 3e6])


def test_a_layer_that_mixes_images_is_declined() -> None:
    with pytest.raises(EvaluationError, match="does not keep one row per image"):
        changes(Classifier(Shuffled(), input_shape=SHAPE, num_classes=2), torch.rand(2, *SHAPE), torch.rand(2, *SHAPE))


def test_a_network_without_layers_is_declined() -> None:
    network = Linear(torch.ones(SHAPE), 0.0)
    with pytest.raises(EvaluationError, match="no convolution, linear"):
        changes(Classifier(network, input_shape=SHAPE, num_classes=2), torch.rand(2, *SHAPE), torch.rand(2, *SHAPE))


def test_means_image_by_image_average_to_those_of_neurons() -> None:
    """Mean over images of the mean over neurons, and the other way round (eq. 1, 11)."""
    classifier = small_classifier().double()
    x, x_adv = torch.rand(2, 7, *SHAPE, dtype=torch.float64)
    meter = SensitivityMeter(classifier)
    meter.add(x, x_adv)
    chosen = {layer.name: layer.top(0.3) for layer in meter.layers()}
    for layer, found in zip(meter.layers(), image_means(classifier, x, x_adv, chosen), strict=True):
        assert (found.name, found.kind) == (layer.name, layer.kind)
        top = chosen[layer.name]
        assert found.ratio.mean() == pytest.approx(layer.ratio[top].mean(), rel=1e-12)
        assert found.ratio_all.mean() == pytest.approx(layer.ratio.mean(), rel=1e-12)
        assert found.sensitivity.mean() == pytest.approx(layer.sensitivity[top].mean(), rel=1e-12)
        assert found.sensitivity_all.mean() == pytest.approx(layer.sensitivity.mean(), rel=1e-12)
        assert {len(values) for values in found[2:]} == {7}


def test_means_batch_by_batch_are_those_of_each_image() -> None:
    """The last layer, the logits, worked out from the network's answers."""
    classifier = small_classifier().double()
    x, x_adv = torch.rand(2, 7, *SHAPE, dtype=torch.float64)
    meter = SensitivityMeter(classifier)
    meter.add(x, x_adv)
    images = ImageMeter(classifier, meter.layers(), 0.4)
    for batch, twins in zip(x.split(3), x_adv.split(3), strict=True):
        images.add(batch, twins)
    assert list(images.layers()) == [layer.name for layer in meter.layers()]
    found = images.layers()[meter.layers()[-1].name]
    change, clean = (classifier(x) - classifier(x_adv)).abs().numpy(), classifier(x).abs().numpy()
    top = np.argsort(-change.mean(0))[:2]  # 0.4 of 5
    assert found.sensitivity.tolist() == pytest.approx(change[:, top].mean(1).tolist(), rel=1e-12)
    assert found.sensitivity_all.tolist() == pytest.approx(change.mean(1).tolist(), rel=1e-12)
    assert found.ratio.tolist() == pytest.approx((change / clean)[:, top].mean(1).tolist(), rel=1e-12)
    assert found.ratio_all.tolist() == pytest.approx((change / clean).mean(1).tolist(), rel=1e-12)


def test_what_is_not_a_number_stays_visible() -> None:
    classifier = small_classifier()
    x = torch.rand(2, *SHAPE)
    x[0, 0, 0, 0] = torch.nan
    meter = SensitivityMeter(classifier, "skip")
    meter.add(x, x)
    assert torch.from_numpy(meter.layers()[0].ratio).isnan().all()
