"""What networks return: dicts, tuples and records, dimensions of one, one logit, log-probabilities; each as logits, and said."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from auditor.auditing.audit import run
from auditor.auditing.spec import AuditSpec
from auditor.auditing.vet import vet
from auditor.kit.errors import EvaluationError, MismatchError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.preflight import said_of_outputs
from tests.auditor.models.test_class_match import SPEC, flag_names
from tests.nets import SHAPE, random_images, small_cnn


class Record(NamedTuple):
    """As torchvision's InceptionOutputs."""

    logits: Tensor
    aux_logits: Tensor | None


@dataclass
class Answer:
    """As some libraries return."""

    loss: Tensor | None
    logits: Tensor
    features: Tensor


class Two(nn.Module):
    """Two heads of five classes on the same features, in a container of some sort."""

    def __init__(self, pack: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.first, self.second, self.pack = small_cnn(0), small_cnn(1), pack

    def forward(self, x: Tensor) -> object:
        return self.pack(self.first(x), self.second(x))


class Packed(nn.Module):
    """A network whose answer is changed by a function."""

    def __init__(self, network: nn.Module, pack: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network, self.pack = network, pack

    def forward(self, x: Tensor) -> object:
        return self.pack(self.network(x))


def images(n: int = 20) -> Tensor:
    return torch.from_numpy(random_images(n)).permute(0, 3, 1, 2) / 255


def classifier(network: nn.Module, classes: int = 5, output: str | int | None = None) -> Classifier:
    return Classifier(network, input_shape=SHAPE, num_classes=classes, output=output)


FIRST, SECOND = small_cnn(0).eval(), small_cnn(1).eval()

CHOSEN: dict[str, tuple[Callable[[Tensor, Tensor], object], str | int | None, nn.Module]] = {
    "logits of a dict": (lambda a, b: {"features": b, "logits": a}, None, FIRST),
    "logits of an ordered dict": (lambda a, b: OrderedDict(loss=None, logits=a, hidden_states=(b,)), None, FIRST),
    "logits of a record": (Record, None, FIRST),
    "aux of a record": (Record, "aux_logits", SECOND),
    "the only one of that shape": (lambda a, b: (a, b[:, :3], [b.flatten()]), None, FIRST),
    "logits of a data class": (lambda a, b: Answer(None, a, b), None, FIRST),
    "none beside it": (lambda a, b: Record(a, None), None, FIRST),
    "by name": (lambda a, b: {"main": a, "aux": b}, "aux", SECOND),
    "by number": (lambda a, b: (a, b), 1, SECOND),
    "by number as text": (lambda a, b: [a, b], "0", FIRST),
    "by number in a dict": (lambda a, b: {"main": a, "aux": b}, 1, SECOND),
    "inside another": (lambda a, b: {"heads": [a, b], "loss": 0.5}, "heads.1", SECOND),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_logits_of_several_outputs(name: str) -> None:
    pack, output, expected = CHOSEN[name]
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(classifier(Two(pack), output=output)(x), expected(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("output", "words", "remedy"),
    [
        (
            None,
            "returns 2 outputs of the shape batch x 5: 'main', 'aux'; expected one",
            "Classifier(..., output='main')",
        ),
        ("axu", "returns no output 'axu'; it returns 'main', 'aux', 'map'", "Did you mean aux?"),
        (3, "returns no output '3'", "a number from 0 to 2"),
        ("map", "logits of shape batch x 5, it returned 2x3x6x6 as 'map'", ""),
    ],
)
def test_which_output_is_asked_for(output: str | int | None, words: str, remedy: str) -> None:
    def pack(a: Tensor, b: Tensor) -> object:
        return {"main": a, "aux": b, "map": torch.zeros(len(a), 3, 6, 6)}

    with pytest.raises(EvaluationError) as caught:
        classifier(Two(pack), output=output)(images(2))
    assert words in caught.value.message
    assert remedy in caught.value.hint
    x = images(2)
    with torch.no_grad():  # the remedies
        for chosen, expected in (("main", FIRST), ("aux", SECOND), (1, SECOND)):
            assert torch.equal(classifier(Two(pack), output=chosen)(x), expected(x))


def test_nothing_of_the_shape_of_logits() -> None:
    packs: dict[str, Callable[[Tensor, Tensor], object]] = {
        "it returned 2x3 as 'a', 1x2x5 as 'b'": lambda a, b: {"a": a[:, :3], "b": b[None]},
        "it returned str": lambda a, b: "text",
        "it returned list": lambda a, b: [],
    }
    for words, pack in packs.items():
        with pytest.raises(EvaluationError, match="must return logits of shape batch x 5") as caught:
            classifier(Two(pack))(images(2))
        assert words in caught.value.message
    with pytest.raises(EvaluationError, match="returns one tensor, and no output 'aux'"):
        classifier(small_cnn(), output="aux")(images(2))


@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 5), (1, 1, 5)])
def test_dimensions_of_one_are_dropped_and_it_is_said(shape: tuple[int, ...]) -> None:
    network = Packed(small_cnn(), lambda logits: logits.reshape(-1, *shape))
    model, x = classifier(network), images()
    with torch.no_grad():
        assert torch.equal(model(x), FIRST(x))
    card = vet(model)
    assert f"returns {'x'.join(map(str, shape))} for an image; the dimensions of one were dropped" in card.notes[0]


def one_logit_data(network: nn.Module, n: int = 60) -> ImageDataset:
    """Images, and class 1 where the network's logit is positive."""
    pixels = random_images(n)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        labels = (network.eval()(x).reshape(-1) > 0).long().numpy()
    assert 5 < labels.sum() < n - 5
    return ImageDataset(pixels, labels)


def centred(seed: int = 0) -> nn.Module:
    """One logit, positive for about half of the images."""
    network = small_cnn(seed, classes=1)
    with torch.no_grad():
        answers = network.eval()(images(200))
        bias = network.get_submodule("5").bias
        assert isinstance(bias, Tensor)
        bias -= answers.median()
    return network


@pytest.mark.parametrize("shape", [(1,), (), (1, 1, 1)])
def test_one_logit_counts_as_two_classes(shape: tuple[int, ...]) -> None:
    network = centred()
    model, data = classifier(Packed(network, lambda z: z.reshape(-1, *shape)), 2), one_logit_data(network)
    with torch.no_grad():
        logits, z = model(images()), network(images())[:, 0]
    assert torch.equal(logits, torch.stack([torch.zeros_like(z), z], 1))
    # Binary cross-entropy with logits is the cross-entropy of (0, z).
    label = torch.ones(len(z), dtype=torch.long)
    expected = nn.functional.binary_cross_entropy_with_logits(z, label.float())
    torch.testing.assert_close(nn.functional.cross_entropy(logits, label), expected)
    result = run(AuditSpec.load(SPEC | {"samples": None}), model, data)
    assert result.clean_accuracy.value == 1.0
    assert "two classes with the logits (0, z)" in " ".join(result.provenance.model.notes)
    card = vet(model, data)
    assert "two classes with the logits (0, z)" in card.notes[0]
    assert "probabilities" not in flag_names(card.flags)


def test_one_class_is_refused_with_the_remedy() -> None:
    with pytest.raises(MismatchError, match="at least 2 classes") as caught:
        classifier(centred(), 1)
    assert "give num_classes=2" in caught.value.hint
    classifier(centred(), 2)(images(2))  # the remedy


def test_a_single_probability_is_a_severe_doubt() -> None:
    network = centred()
    data = one_logit_data(network)
    card = vet(classifier(Packed(network, torch.sigmoid), 2), data)
    assert flag_names(card.flags)["probabilities"] == "severe"
    flag = next(flag for flag in card.flags if flag.name == "probabilities")
    assert "every image is of class 1" in flag.message
    # The remedy: the logit of the probability.
    mended = vet(classifier(Packed(network, lambda z: torch.logit(z.sigmoid())), 2), data)
    assert mended.accuracy is not None
    assert mended.accuracy.value == 1.0
    assert "probabilities" not in flag_names(mended.flags)


def test_log_probabilities_serve_as_logits_and_it_is_said() -> None:
    network = Packed(small_cnn(), lambda logits: logits.log_softmax(1))
    x = images()
    labels = FIRST(x).argmax(1).numpy()
    data = ImageDataset(random_images(20), labels)
    results = [
        run(AuditSpec.load(SPEC | {"samples": None}), model, data)
        for model in (classifier(network), classifier(small_cnn()))
    ]
    assert results[0].records[0].fooled == results[1].records[0].fooled
    assert any("log-probabilities" in note for note in results[0].provenance.model.notes)
    assert results[1].provenance.model.notes == ()
    assert any("log-probabilities" in note for note in vet(classifier(network), data).notes)


def test_probabilities_work_and_are_said() -> None:
    data = ImageDataset(random_images(20), FIRST(images()).argmax(1).numpy())
    card = vet(classifier(Packed(small_cnn(), lambda logits: logits.softmax(1))), data)
    assert card.accuracy is not None
    assert card.accuracy.value == 1.0
    assert flag_names(card.flags)["probabilities"] == "warning"


def test_an_audit_of_a_chosen_output_says_which(tmp_path: Path) -> None:
    data = ImageDataset(random_images(20), SECOND(images()).argmax(1).numpy())
    model = classifier(Two(lambda a, b: {"main": a, "aux": b}), output="aux")
    result = run(AuditSpec.load(SPEC | {"samples": None, "analyses": [{"kind": "neuron_sensitivity"}]}), model, data)
    assert result.clean_accuracy.value == 1.0
    assert "returns 2 outputs ('main', 'aux'); 'aux' was taken for the logits" in " ".join(
        result.provenance.model.notes
    )
    assert result.findings[0].declined in (None, "")


def test_the_look_at_outputs_draws_no_random_numbers() -> None:
    model = classifier(Packed(small_cnn(), lambda logits: (logits + torch.rand_like(logits)).reshape(-1, 5, 1)))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert "the dimensions of one were dropped" in said_of_outputs(model, images())[0]
    assert torch.equal(torch.get_rng_state(), before)
    model(images())
    assert not torch.equal(torch.get_rng_state(), before)
