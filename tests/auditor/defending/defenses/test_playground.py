"""The playground: closed forms on a linear model, agreement with the evaluation's parts, determinism, and its blocks."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from auditor.attacking.threat import ThreatModel
from auditor.defending.defense import DEFENSES, Defense, defended
from auditor.defending.nip.candidates import ObservedLayer, predicted_influence
from auditor.defending.playground import (
    ADAPTIVE,
    ADAPTIVE_DEFENDED,
    ATTACKED,
    CLEAN,
    DEFENDED,
    Play,
    PlaySpec,
    as_bytes,
    from_bytes,
    innermost,
    play,
    received,
)
from auditor.kit.errors import EvaluationError, IntakeError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import DefendedClassifier
from auditor.report.playground import playground_blocks
from auditor.show.blocks import Figure, Images, Table, Text
from auditor.show.charts import draw
from tests.narrow import sequence
from tests.nets import SHAPE, Linear, deeper_classifier, labelled

NIP = {"front": 2, "tail": 3, "quorum": 0.8, "inputs": 20}
SPEC = PlaySpec(threat=ThreatModel(epsilon=0.3))
STAGES = [CLEAN, ATTACKED, DEFENDED, ADAPTIVE, ADAPTIVE_DEFENDED]


def behind(classifier: Classifier, *defenses: Defense) -> DefendedClassifier:
    data = labelled(classifier, 40, wrong=6)
    states = [defense.fit(classifier, data, np.arange(40), seed=0) for defense in defenses]
    model = defended(classifier, defenses, states, seed=0)
    assert isinstance(model, DefendedClassifier)
    return model


@pytest.fixture(scope="module")
def model() -> DefendedClassifier:
    return behind(deeper_classifier(), DEFENSES.build("nip", NIP))


@pytest.fixture(scope="module")
def data() -> ImageDataset:
    return labelled(deeper_classifier(), 40, wrong=6)


@pytest.fixture(scope="module")
def played(model: DefendedClassifier, data: ImageDataset) -> Play:
    return play(model, data, 20, SPEC)


def test_every_stage_is_what_the_models_say(played: Play, model: DefendedClassifier, data: ImageDataset) -> None:
    """Restated without the harness: the network and the defended model on the stored images."""
    bare = innermost(model)
    assert [stage.name for stage in played.stages] == STAGES
    assert torch.equal(played.images[0], data.images([20])[0])
    for stage, image in zip(played.stages, played.images, strict=True):
        alone = bare.logits(image[None]).double().softmax(1)[0]
        assert stage.alone == pytest.approx(alone.tolist(), abs=1e-9)
        assert stage.distance == pytest.approx(float((image - played.images[0]).abs().max()), abs=1e-6)
    by_name = dict(zip(STAGES, played.images, strict=True))
    for name, sent in ((CLEAN, CLEAN), (ATTACKED, ATTACKED), (DEFENDED, ATTACKED), (ADAPTIVE, ADAPTIVE)):
        stage = played.stages[STAGES.index(name)]
        expected = model.logits(by_name[sent][None]).double().softmax(1)[0]
        assert stage.behind == pytest.approx(expected.tolist(), abs=1e-9)
    # NIP is one pass of the network on the image that it gets: alone and behind agree there.
    for stage in (played.stages[2], played.stages[4]):
        assert stage.alone == pytest.approx(stage.behind, abs=1e-6)


def test_attacked_images_stay_in_the_ball_and_win_where_they_can(played: Play) -> None:
    for place in (1, 3):
        assert played.stages[place].distance <= 0.3 + 1e-6
        assert 0 <= float(played.images[place].min()) <= float(played.images[place].max()) <= 1
    assert int(np.argmax(played.stages[0].alone)) == played.label
    assert int(np.argmax(played.stages[1].alone)) != played.label


def test_influence_is_that_of_nip(played: Play, model: DefendedClassifier) -> None:
    bare = innermost(model)
    place = ObservedLayer.of(bare, "")
    for stage, image in zip(played.stages, played.images, strict=True):
        assert stage.own == pytest.approx(
            predicted_influence(bare, place, image[None]).influence[0].tolist(), rel=1e-6, abs=1e-9
        )
    order = np.argsort(-np.array(played.stages[0].own), kind="stable")
    assert played.front == tuple(order[:2])
    assert played.tail == tuple(order[-3:])
    assert played.stages[0].clean == played.stages[0].own


def test_influence_on_the_clean_images_class_is_the_derivative_of_its_log_odds() -> None:
    """sigma_n = z_n d m_c / d z_n, by a central difference of a forward pass from the features on, in float64."""
    classifier = deeper_classifier().double()
    found = play(behind(classifier, DEFENSES.build("bit-depth", {})), labelled(classifier, 40), 20, SPEC)
    head, kept = sequence(classifier)[-1], []
    handle = head.register_forward_pre_hook(lambda layer, inputs: kept.append(inputs[0]))
    classifier(found.images[1][None].double())
    handle.remove()
    predicted = int(np.argmax(found.stages[0].alone))

    def odds(features: torch.Tensor) -> float:
        p = head(features).softmax(1)[0, predicted]
        return float((p / (1 - p)).log())

    for neuron in range(12):
        step = torch.zeros(1, 12, dtype=torch.float64)
        step[0, neuron] = 1e-6
        slope = (odds(kept[0] + step) - odds(kept[0] - step)) / 2e-6
        assert found.stages[1].clean[neuron] == pytest.approx(float(kept[0][0, neuron]) * slope, rel=1e-4, abs=1e-6)


def test_the_same_seed_gives_the_same_play(played: Play, model: DefendedClassifier, data: ImageDataset) -> None:
    again = play(model, data, 20, SPEC)
    assert torch.equal(again.images, played.images)
    assert again.stages == played.stages


@pytest.mark.parametrize("kind", ["sap", "nip-n", "gaussian-noise", "jpeg", "random-candidate"])
def test_any_defense_can_be_played_with(kind: str) -> None:
    classifier = deeper_classifier()
    values: dict[str, Any] = {"passes": 2} if kind == "sap" else NIP if kind in ("nip-n", "random-candidate") else {}
    model = behind(classifier, DEFENSES.build(kind, values))
    found = play(model, labelled(classifier, 40), 9, SPEC.model_copy(update={"draws": 2}))
    assert len(found.stages) == 5
    assert (torch.equal(found.images[1], found.images[2])) is (kind in ("sap", "nip-n"))
    assert found.stages == play(model, labelled(classifier, 40), 9, SPEC.model_copy(update={"draws": 2})).stages


def test_a_stack_is_passed_from_its_first_defense_on() -> None:
    classifier = deeper_classifier()
    model = behind(classifier, DEFENSES.build("bit-depth", {"bits": 2}), DEFENSES.build("spatial-smoothing", {}))
    x = labelled(classifier, 4).images([1])
    assert isinstance(model.inner, DefendedClassifier)
    first = model.defense.changed(model.inner, x, model.passing(x))
    assert torch.equal(first, (x * 3).round() / 3)
    second = model.inner.defense.changed(classifier, first, model.inner.passing(first))
    assert torch.equal(received(model, x), second)
    assert torch.allclose(classifier(second), model(x))


def test_without_neurons_to_look_at_it_says_why() -> None:
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(Linear(weight, -float(weight.sum()) / 2), input_shape=SHAPE, num_classes=2)
    found = play(behind(classifier, DEFENSES.build("jpeg", {})), labelled(classifier, 10, wrong=0), 3, SPEC)
    assert found.front == found.tail == ()
    assert not found.stages[0].own
    assert "no linear layer" in found.without
    blocks = playground_blocks(found)
    assert not [block for block in blocks if isinstance(block, Figure)]
    assert any(isinstance(block, Table) and found.without in block.caption for block in blocks)


def test_an_image_that_is_wrong_from_the_start_is_said_to_be(model: DefendedClassifier, data: ImageDataset) -> None:
    found = play(model, data, 0, SPEC)  # its label was made wrong
    assert torch.equal(found.images[0], found.images[1])
    (text, *_) = playground_blocks(found)
    assert isinstance(text, Text)
    assert "wrong without any attack" in text.text


def test_a_sample_that_is_none_is_refused(model: DefendedClassifier, data: ImageDataset) -> None:
    with pytest.raises(EvaluationError, match="from 0 to 39, got 40"):
        play(model, data, 40, SPEC)


def test_it_lives_on_as_bytes(played: Play) -> None:
    again = from_bytes(as_bytes(played))
    assert torch.equal(again.images, played.images)
    assert again._replace(images=played.images) == played
    for content in (b"", b"nothing of the kind", as_bytes(played)[:200]):
        with pytest.raises(IntakeError, match="stored run of the playground is damaged"):
            from_bytes(content)


def test_the_blocks_show_each_stage(played: Play) -> None:
    text, images, table, figure = playground_blocks(played, [f"kind {index}" for index in range(5)], "clean")
    assert isinstance(text, Text)
    assert isinstance(images, Images)
    assert isinstance(table, Table)
    assert isinstance(figure, Figure)
    assert f"This is kind {played.label}." in text.text
    assert [row["stage"] for row in table.rows] == STAGES
    front = np.array(played.stages[1].clean)[list(played.front)]
    assert table.rows[1]["front"] == pytest.approx(front.mean())
    assert (table.rows[0]["front_kept"], table.rows[0]["tail_kept"]) == ("2 of 2", "3 of 3")
    assert len(figure.rows) == 5 * 5
    assert draw(figure).to_dict()["layer"]
    assert [len(row.images) for row in images.rows] == [5, 5]


def test_a_change_is_shown_ten_times_around_grey(played: Play) -> None:
    (_, images, *_) = playground_blocks(played)
    assert isinstance(images, Images)
    pixels = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(images.rows[1].images[1].data))))
    expected = (0.5 + 10 * (played.images[1] - played.images[0])).clamp(0, 1)
    factor = pixels.shape[0] // SHAPE[1]
    shown = torch.from_numpy(pixels[::factor, ::factor].copy()).permute(2, 0, 1)
    assert torch.equal(shown, (expected * 255).round().byte())
    grey = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(images.rows[1].images[0].data))))
    assert set(grey.ravel().tolist()) == {128}
