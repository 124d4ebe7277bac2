"""What somebody may hand over in Python: arrays that are no data set, networks of any type, and numbers that are withheld."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from auditor import AuditSpec, Classifier, ImageDataset, render_report, run_audit
from auditor.auditing.result import AuditResult
from auditor.auditing.vet import vet
from auditor.kit.errors import EvaluationError, IntakeError, SpecError
from auditor.kit.statistics.estimate import WithheldRate
from auditor.report.sections.curve import AccuracyCurve
from auditor.show.blocks import Figure
from auditor.show.export import as_csv
from tests.narrow import sequence, typed
from tests.nets import SHAPE, labelled, random_images, small_classifier, small_cnn

IMAGES = random_images(12)
LABELS = np.arange(12) % 3
FLOATS = (IMAGES / 255).astype(np.float32)
SPEC = {
    "threats": [{"norm": "linf", "epsilon": 0.02}],
    "attacks": [{"kind": "fgsm"}],
    "analyses": [],
    "curve": [0.5],
    "samples": None,
}


def same(data: ImageDataset, images: np.ndarray = FLOATS, labels: np.ndarray = LABELS) -> bool:
    found = data.images(np.arange(12)).permute(0, 2, 3, 1).numpy()
    return np.allclose(found, images, atol=1e-6) and data.labels.tolist() == labels.tolist()


# Arrays.


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (FLOATS * 255, LABELS, "pixels from 0 to 255; expected [0, 1]. Divide by 255"),
        (2 * FLOATS - 1, LABELS, r"save (images + 1) / 2"),
        (np.where(IMAGES[3, 0, 0, 0] == IMAGES, np.nan, FLOATS), LABELS, "NaN or infinite pixels"),
        (IMAGES.astype(np.int64), LABELS, "int64 (from 0 to 255); expected uint8, or floating point in [0, 1]. Save"),
        (IMAGES.astype(np.uint16) * 16, LABELS, "(images / 4095).astype('float32')"),
        (IMAGES > 9, LABELS, "Save (255 * images).astype('uint8')"),
        (IMAGES.reshape(12, -1), LABELS, "shape 12x108; expected NxHxWxC"),
        (np.zeros((12, 4, 9, 9), np.uint8), LABELS, "Put the channels last: images.transpose(0, 2, 3, 1)"),
        (np.zeros((12, 9, 9, 9), np.uint8), LABELS, "images[..., :3]"),
        (IMAGES, LABELS - 1, "4 labels that are negative (#0 is -1"),
        (IMAGES, LABELS + 0.7, "12 labels that are not whole numbers (#0 is 0.7"),
        (IMAGES, np.where(LABELS, np.nan, 0.0), "8 labels that are not whole numbers"),
        (IMAGES, LABELS[:5], "There are 12 images and 5 labels"),
        (IMAGES, np.zeros((12, 2, 2)), "shape 12x2x2; expected one for each image"),
        (IMAGES, np.ones((12, 3), int), "several labels for an image (12 images with several)"),
        (IMAGES, np.int64(3), "shape scalar"),
        (IMAGES, LABELS.astype("M8[s]"), "datetime64"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_data_set(images: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(IntakeError, match=re.escape(words)):
        ImageDataset(images, labels)


def test_every_fault_is_named_in_one_error_and_no_secondary_one() -> None:
    with pytest.raises(IntakeError) as caught:
        ImageDataset(FLOATS * 255, LABELS[:9] - 1, ["a", "a"], names=["x"])
    text = str(caught.value)
    assert text.startswith("The data set has 5 faults: (1) The class name 'a' appears twice")
    for words in ("(2) The array 'labels' has 3 labels that are negative", "(3) There are 12 images and 9 labels",
                  "(4) There are 12 images and 1 names", "(5) The array 'images' has pixels from 0 to 255"):  # fmt: skip
        assert words in text
    with pytest.raises(IntakeError) as caught:
        ImageDataset(FLOATS.reshape(12, -1) * 255, LABELS)
    assert str(caught.value).startswith("The images have the shape 12x108")  # nothing is said of its pixels


@pytest.mark.parametrize(
    ("images", "labels", "note"),
    [
        (FLOATS.transpose(0, 3, 1, 2), LABELS, "(NCHW); they were moved last"),
        (torch.from_numpy(FLOATS).permute(0, 3, 1, 2), torch.from_numpy(LABELS), "(NCHW)"),
        (FLOATS.astype(np.float64), LABELS, ""),
        (FLOATS * (1 + 1e-6), LABELS, ""),
        (IMAGES, LABELS[:, None], "shape Nx1"),
        (IMAGES, LABELS.astype(float), "whole numbers were taken"),
        (IMAGES, LABELS.astype(np.uint8), ""),
        (IMAGES, LABELS.tolist(), ""),
        (IMAGES, np.eye(3)[LABELS], "mark one class in each row"),
        (IMAGES, np.array(["ant", "bee", "cat"])[LABELS], "became classes in sorted order"),
        (IMAGES, np.array(["ant", "bee", "cat"], object)[LABELS], "became classes in sorted order"),
    ],
)
def test_arrays_of_other_kinds_are_read_and_said(images: np.ndarray, labels: np.ndarray, note: str) -> None:
    data = ImageDataset(images, labels)
    assert same(data)
    assert (note in " ".join(data.notes)) if note else data.notes == ()
    assert data._images.dtype in (np.uint8, np.float32)


def test_grey_images_without_an_axis_of_channels() -> None:
    data = ImageDataset(IMAGES[..., 0], LABELS)
    assert (data.shape, len(data.notes)) == ((1, 6, 6), 1)


def test_float32_in_range_is_not_copied() -> None:
    data = ImageDataset(FLOATS, LABELS)
    assert data._images is FLOATS


# Networks.


def state_of(network: nn.Module) -> tuple[dict[str, tuple[torch.dtype, torch.device, bool]], list[bool], list[Tensor]]:
    weights = {name: (value.dtype, value.device, value.requires_grad) for name, value in network.named_parameters()}
    return (
        weights,
        [module.training for module in network.modules()],
        [value.clone() for value in network.state_dict().values()],
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_caller_s_network_is_as_it_was(kind: torch.dtype) -> None:
    network = nn.Sequential(*sequence(small_cnn()), nn.Dropout(0.5)).to(kind).train()
    network[0].weight.requires_grad_(False)
    before = state_of(network)
    classifier = Classifier(network, input_shape=SHAPE, num_classes=5)
    data = labelled(classifier, n=30)
    result = run_audit(AuditSpec.load(SPEC), classifier, data)
    assert result.clean_accuracy.value == pytest.approx(25 / 30)
    vet(classifier, data)
    after = state_of(network)
    assert before[:2] == after[:2]
    assert all(torch.equal(one, other) for one, other in zip(before[2], after[2], strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())
    widened = kind in (torch.float16, torch.bfloat16)
    assert classifier.dtype == (torch.float32 if widened else kind)
    # Half precision is widened exactly: the float32 network of the same weights says the same.
    plain = copy.deepcopy(network).eval().to(classifier.dtype)
    x = data.images(np.arange(30)).to(classifier.dtype)
    assert torch.equal(classifier.logits(x), plain(x).detach())
    assert bool(classifier.notes) == widened
    if widened:
        assert "measured in float32, which holds them exactly" in render_report(result)


def test_a_network_may_be_measured_itself() -> None:
    network = small_cnn().train()
    classifier = Classifier(network, input_shape=SHAPE, num_classes=5, copy=False)
    assert classifier.network is network
    with pytest.raises(SpecError, match="float16, and it is measured in one type"):
        Classifier(small_cnn().half(), input_shape=SHAPE, num_classes=5, copy=False)


def test_a_network_that_cannot_be_copied_is_named() -> None:
    network: Any = small_cnn()  # torch takes tensors and modules as attributes, and this at run time only
    network.extra = (item for item in "a generator cannot be copied")
    with pytest.raises(SpecError, match=r"cannot be copied.*copy=False"):
        Classifier(network, input_shape=SHAPE, num_classes=5)
    Classifier(network, input_shape=SHAPE, num_classes=5, copy=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_with_computed_weights_is_copied() -> None:
    network = sequence(nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(108, 5))))
    network(torch.rand(2, *SHAPE))  # its weight is now a tensor with a history, which deepcopy refuses
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)
    classifier = Classifier(network, input_shape=SHAPE, num_classes=5)
    x = torch.rand(3, *SHAPE)
    assert torch.equal(classifier(x), network(x))
    with torch.no_grad():
        network[1].get_parameter("weight_g").zero_()
    assert not torch.equal(classifier(x), network(x))


def test_weights_of_another_type_and_failing_networks_are_refused_in_words() -> None:
    network = sequence(small_cnn())
    network[0].weight = nn.Parameter(network[0].weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(SpecError, match=r"expected float32, float64, float16 or bfloat16, got torch.float8_e4m3fn"):
        Classifier(network, input_shape=SHAPE, num_classes=5)
    short = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(7, 5)), input_shape=SHAPE, num_classes=5)
    with pytest.raises(
        EvaluationError, match=r"fails on a batch of 2x3x6x6 images of the type float32: .*mat1 and mat2"
    ):
        short(torch.rand(2, *SHAPE))


def test_the_readme_s_example_runs() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0].replace('open("report.html", "w").write', "str")
    classifier = small_classifier()
    example = example.replace(
        "input_shape=(3, 32, 32), num_classes=10, normalization=...", "input_shape=(3, 6, 6), num_classes=5"
    )
    data = labelled(classifier)
    scope = {"network": small_cnn(), "images_uint8_nhwc": data._images, "labels": data.labels, "print": lambda *_: None}
    exec(example, scope)
    assert isinstance(scope["result"], AuditResult)


# Numbers that are withheld.


@pytest.fixture(scope="module")
def withheld() -> AuditResult:
    from auditor.kit.flag import Flag

    classifier = small_classifier()
    result = run_audit(AuditSpec.load(SPEC | {"checks": []}), classifier, labelled(classifier))
    doubt = Flag(name="x", severity="severe", message="The gradient is hidden.")
    return result.model_copy(update={"flags": (doubt,)})


def test_a_withheld_number_has_no_value(withheld: AuditResult) -> None:
    threat = withheld.spec.threats[0]
    rates = [
        withheld.robust_accuracy(threat),
        withheld.attack_accuracy(withheld.records[0]),
        *(rate for _, rate in withheld.curve(threat)),
    ]
    for rate in rates:
        assert isinstance(rate, WithheldRate)
        assert (rate.value, rate.low, rate.high, rate.hits, rate.n) == (None, None, None, 0, 0)
        assert str(rate).startswith("not established (measured: ")
        assert rate.why == "The gradient is hidden."
        assert rate.measured().n == 40
        assert json.loads(rate.model_dump_json())["value"] is None
        shown = rate.measure("Robust accuracy")
        assert (shown.value, shown.title) == (None, "Robust accuracy: not established")
    assert rates[0].measured().hits == int(withheld.robust(threat).sum())
    # Established, it is a plain rate.
    sound = withheld.model_copy(update={"flags": ()})
    assert sound.robust_accuracy(threat) == rates[0].measured()
    assert sound.robust_accuracy(threat).measured() == sound.robust_accuracy(threat)


def test_exports_say_that_a_number_is_withheld(withheld: AuditResult) -> None:
    stored = json.loads(withheld.model_dump_json())
    assert stored["headlines"][0]["robust_accuracy"] is None
    section = AccuracyCurve().build(withheld)
    assert section is not None
    lines = as_csv(typed(section.blocks[0], Figure)).splitlines()
    assert lines[0].endswith(",established")
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["", *["no"] * (len(lines) - 2)]
    assert "not established (measured: " in render_report(withheld)
