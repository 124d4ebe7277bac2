"""A model with a wrong normalization or image size is added again from its stored weights, on the page and by command."""

from __future__ import annotations

import pytest
import torch

from auditor.kit.errors import MismatchError, SpecError
from auditor.models.classifier import NORMALIZATIONS, Normalization
from tests import hostile
from tests.app.test_cli import Auditor, auditor
from tests.app.test_pages import opened, texts, world
from tests.worker.world import World
from worker.loading import load_classifier
from worker.models import ModelRow

__all__ = ["auditor", "world"]  # fixtures


def any_size(world: World) -> ModelRow:
    """A ResNet of any image size, in the world's library, registered for 32x32."""
    from safetensors.torch import save

    from auditor.models.architecture import ARCHITECTURES

    architecture = ARCHITECTURES.parse(hostile.ARCHITECTURE)
    return world.client.backend.registry.add_model(
        "net",
        architecture=architecture.model_dump(mode="json"),
        normalization=NORMALIZATIONS["half"].for_channels(3).model_dump(mode="json"),
        class_names=None,
        declared_accuracy=0.5,
        weights=world.client.blobs.put(save(architecture.build().state_dict())),
        manifest={"parameters": 1, "output": "", "notes": ["The normalization is the file's own: x.", "Read."]},
    )


def test_the_same_weights_with_another_normalization_and_size(world: World) -> None:
    library, row = world.client.library, any_size(world)
    other = library.add_again(row.id, normalization=NORMALIZATIONS["imagenet"], size=(16, 24))
    assert other.name == "net, 16x24, imagenet"
    assert (other.weights, other.declared_accuracy) == (row.weights, 0.5)
    assert other.manifest["notes"] == [
        f"The weights of net ({row.id[:8]}), with other preprocessing: images of 16x24 instead of 32x32; mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225 instead of mean 0.5 0.5 0.5, std 0.5 0.5 0.5.",
        "Read.",
    ]
    before, after = (load_classifier(one, world.client.blobs) for one in (row, other))
    assert after.input_shape == (3, 16, 24)
    x = torch.rand(2, 3, 16, 24)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = (x - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(after.logits(x), before.network.eval()(by_hand))
    assert library.add_again(row.id, size=(16, 16), name="mine").normalization == row.normalization


def test_what_cannot_be_added_again_is_refused(world: World) -> None:
    library, row = world.client.library, any_size(world)
    with pytest.raises(SpecError, match=r"net has this preprocessing already: images of 32x32, mean 0\.5 0\.5 0\.5"):
        library.add_again(row.id, size=(32, 32), normalization=NORMALIZATIONS["half"])
    with pytest.raises(SpecError, match=r"tiny fits images of 6x6 alone: .*in_features is 72, but 128") as caught:
        library.add_again("tiny", size=(8, 8))
    assert "--resize 6x6" in caught.value.hint
    with pytest.raises(MismatchError, match="2 values for mean"):
        library.add_again(row.id, normalization=Normalization(mean=(0.5, 0.5), std=(1.0,)))
    assert len(library.models()) == 2


def test_the_page_adds_again(world: World) -> None:
    row = any_size(world)
    page = opened("models", model=row.id)
    key = f"again-{row.id[:8]}"
    page.button(key=f"{key}-add").click().run()
    assert "net has this preprocessing already" in texts(page)
    page.selectbox(key=f"{key}-normalization").set_value("own values").run()
    assert page.text_input(key=f"{key}-mean").value == "0.5, 0.5, 0.5"
    page.text_input(key=f"{key}-std").set_value("0.25, 0.25, 0.25")
    page.number_input(key=f"{key}-height").set_value(6)
    page.number_input(key=f"{key}-width").set_value(6).run()
    page.button(key=f"{key}-add").click().run()
    assert not page.error
    new = world.client.library.model("net, 6x6, own normalization")
    assert new.normalization["std"] == [0.25] * 3
    (job,) = world.client.jobs.find(kind="vet")
    assert (job.model_id, job.dataset_id) == (new.id, world.dataset_id)
    assert page.query_params["model"] in (new.id, [new.id])


def test_the_command_adds_again(world: World, auditor: Auditor) -> None:
    any_size(world)
    said = auditor("models", "again", "net", "--channel-order", "BGR", "--size", "6x6", "--name", "bgr")
    assert "BGR instead of mean 0.5 0.5 0.5" in said
    row = world.client.library.model("bgr")
    assert (row.normalization["mean"], row.normalization["channel_order"]) == ([0.5] * 3, "BGR")
    assert "has this preprocessing already" in auditor("models", "again", "bgr", "--size", "6x6", expect=1)
