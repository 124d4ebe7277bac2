"""Grad-CAM on and off the route against autograd on the rest of a chain, image by image, in float64."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.neural.analyses.grad_cam import GradCam
from auditor.neural.analysis import Finding, measured, section_of
from auditor.neural.found import SIDES
from auditor.neural.routes.route_cam import cam_layer
from auditor.neural.routes.routes import count_of
from auditor.neural.routes.selection import Selector, route_frequency
from auditor.show.blocks import Images, Measures
from tests.auditor.neural.analyses.given import Given, plain, subject_of
from tests.auditor.routed import chain, classifier_of, images, same, subject
from tests.narrow import sequence, typed


@pytest.fixture(scope="module")
def finding() -> Finding:
    return GradCam().run(subject(classifier_of(chain())))


def share(network: nn.Sequential, cut: int, x: Tensor, label: int | None, members: list[int]) -> float:
    """Share of the mass that some channels hold, after the first ``cut`` modules, for one image."""
    output = network[:cut](x).detach().requires_grad_()
    logits = network[cut:](output.clone())[0]
    logits[int(logits.argmax()) if label is None else label].backward()
    features, gradient = output.detach()[0].numpy(), output.grad[0].numpy()
    maps = [gradient[channel].mean() * features[channel] for channel in range(10)]
    inside, outside = (
        np.maximum(sum((maps[c] for c in range(10) if (c in members) == side), np.zeros_like(maps[0])), 0).sum()
        for side in (True, False)
    )
    return inside / (inside + outside) if inside + outside else np.nan


@pytest.mark.parametrize("node", ["activation", "conv"])
@pytest.mark.parametrize("target", ["predicted", "label"])
def test_shares_equal_the_plain_restatement(node: str, target: str) -> None:
    network = chain()
    looked_at = subject(classifier_of(network), batch_size=7)
    layer, found, shares = GradCam(node=node, target=target).measure(looked_at)
    assert layer == {"activation": "8", "conv": "7"}[node]
    pairs, route = typed(looked_at.pairs, Given), route_frequency(looked_at, width=0.2, mode="serial")
    members = route.order[2][: count_of(0.3, 10)].tolist()
    assert found.sizes[-1] == 10
    for side, images_of_side in zip(SIDES, (pairs.x, pairs.x_adv), strict=True):
        for image in range(24):
            label = int(pairs.labels[image]) if target == "label" else None
            one = images_of_side[image : image + 1]
            expected = share(network, int(layer) + 1, one, label, members)
            assert shares.route[side][image] == pytest.approx(expected, rel=1e-9, nan_ok=True)
            ids = np.array([image])
            (drawn,) = Selector({"route": route.order}, 0.3, 0).masks("random", (2,), 0.3, ids, one.device)
            expected = share(network, int(layer) + 1, one, label, drawn[0].nonzero().flatten().tolist())
            assert shares.random[side][image] == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_the_means_are_those_of_the_images_that_have_any_mass() -> None:
    _, _, shares = GradCam().measure(subject(classifier_of(chain())))
    data = plain(GradCam().run(subject(classifier_of(chain()))))
    for side in ("clean", "adversarial"):
        assert data["route"][side]["value"] == pytest.approx(np.nanmean(shares.route[side]))
        assert data["route"][side]["n"] + data["undefined"][side] == 24
    assert data["change"]["value"] == pytest.approx(np.nanmean(shares.route["adversarial"] - shares.route["clean"]))


def test_the_layer_of_a_residual_network_is_the_activation_after_the_addition() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES.build("resnet-cifar", {"depth": 20}).build()
    classifier = Classifier(network, input_shape=(3, 32, 32), num_classes=10)
    assert cam_layer(classifier, "layer3.2.conv2", "activation") == "layer3.2.relu2"
    assert cam_layer(classifier, "layer3.2.conv2", "conv") == "layer3.2.conv2"


def test_the_images_shown_are_the_first_fooled_ones_whatever_the_batch_size(finding: Finding) -> None:
    looked_at = subject(classifier_of(chain()))
    fooled = np.flatnonzero(typed(looked_at.pairs, Given).fooled)[:4]
    titles = [row["title"] for row in plain(finding)["rows"]]
    assert len(titles) == 8
    for place, sample in enumerate(fooled):
        assert titles[2 * place].startswith(f"Sample {sample} (fooled), clean: class ")
        assert titles[2 * place + 1].startswith(f"Sample {sample} (fooled), adversarial: class ")
    for batch_size in (1, 7):
        other = GradCam().run(subject(classifier_of(chain()), batch_size=batch_size))
        same(plain(other), plain(finding))


def test_pictures_are_small_and_show_the_image(finding: Finding) -> None:
    looked_at = subject(classifier_of(chain()))
    pairs = typed(looked_at.pairs, Given)
    sample = int(np.flatnonzero(pairs.fooled)[0])
    images_of_row = plain(finding)["rows"][0]["images"]
    assert [image["caption"] for image in images_of_row] == ["image", "on the route", "off the route"]
    for image in images_of_row:
        assert image["mime"] == "image/png"
        assert len(image["data"]) < 60_000
    pixels = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(images_of_row[0]["data"]))))
    assert pixels.shape == (114, 114, 3)  # 6 pixels, enlarged 19 times
    expected = (pairs.x[sample].float() * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels[::19, ::19], expected)


def test_section_shows_what_was_stored(finding: Finding) -> None:
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    (shown,) = [block for block in section.blocks if isinstance(block, Images)]
    assert len(shown.rows) == 8
    (measures,) = [block for block in section.blocks if isinstance(block, Measures)]
    assert measures.items[0].value == plain(finding)["route"]["clean"]["value"]
    bare = GradCam(images=0).run(subject(classifier_of(chain())))
    assert not [block for block in section_of(bare).blocks if isinstance(block, Images)]


def test_maps_that_are_empty_are_counted_and_flagged() -> None:
    network = sequence(chain())
    network[7].bias.fill_(-1e6)  # the last activation is zero for every image
    found = GradCam(images=1).run(subject(classifier_of(network), n=8))
    assert plain(found)["undefined"] == {"clean": 8, "adversarial": 8}
    assert plain(found)["route"]["clean"] == {"value": None, "low": None, "high": None, "n": 0}
    assert "empty maps" in {flag.name for flag in found.flags}
    assert section_of(found).blocks


def test_nothing_fooled_shows_the_first_images() -> None:
    x, _ = images(5)
    classifier = classifier_of(chain())
    pairs = Given(x, x, 2, np.zeros(5, bool), classifier.logits(x).argmax(1))
    found = GradCam(images=2).run(subject_of(classifier, pairs))
    assert [row["title"].split(",")[0] for row in plain(found)["rows"][::2]] == [
        "Sample 0 (not fooled)", "Sample 1 (not fooled)",
    ]  # fmt: skip
    assert plain(found)["change"]["value"] == 0


def test_a_route_that_ends_in_a_layer_without_maps_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "auditor.neural.analyses.grad_cam.route_frequency",
        lambda *_args, **_more: route_frequency(subject(classifier_of(chain())), width=0.2, mode="serial")._replace(
            layers=("0", "3", "10")
        ),
    )
    assert "no maps" in measured(GradCam(), subject(classifier_of(chain()))).declined
