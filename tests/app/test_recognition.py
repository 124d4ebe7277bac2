"""A dropped file is recognized at once, in the background, and once; the form can be used meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import recognition
from auditor.data.intake.inspection import Inspection
from auditor.data.intake.proposals import Proposal
from auditor.kit.errors import AuditorError, IntakeError
from tests.app.test_pages import opened, recognized, texts, world
from tests.worker.world import World
from worker.service.library import Library

__all__ = ["world"]  # a fixture


class Sandbox:
    """Stands for the reading in the sandbox: it answers when it may, and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_answer = threading.Event()
        self.asked: list[tuple[str, bytes, str]] = []
        self.answer: Inspection | AuditorError = Inspection(format=None, what="A network.")
        sandbox = self

        def inspect_model(library: Library, stream: Any, filename: str, **options: Any) -> Inspection:
            sandbox.asked.append((filename, stream.read(), options["weights"]))
            options["on_wait"]("Waiting: 1 other file is being read.")
            assert sandbox.may_answer.wait(60)
            if isinstance(sandbox.answer, AuditorError):
                raise sandbox.answer
            return sandbox.answer

        monkeypatch.setattr(Library, "inspect_model", inspect_model)
        monkeypatch.setattr(recognition, "LARGEST", 10)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(monkeypatch)


def dropped(content: bytes = b"tensors", name: str = "net.pt") -> AppTest:
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload(name, content, "application/octet-stream").run()
    assert not page.exception
    return page


def keys(page: AppTest) -> set[str | None]:
    return {item.key for kind in (page.selectbox, page.button, page.number_input) for item in kind}


def proposal(**architecture: int | str) -> Proposal:
    return Proposal(architecture={"kind": "timm", **architecture}, text="the one that fits", open_size=True)


def test_a_dropped_file_is_read_once_in_the_background_and_the_form_stays_usable(
    world: World, sandbox: Sandbox
) -> None:
    page = dropped()
    while "Waiting: 1 other file" not in texts(page):
        page.run()
    assert recognition.RECOGNIZING in texts(page)
    assert page.button(key="model-add").disabled
    assert "model-architecture" not in keys(page)
    page.text_input(key="model-name").set_value("mine").run()
    page.toggle(key="model-by-hand").set_value(True).run()
    assert "model-architecture" in keys(page)
    assert not page.button(key="model-add").disabled
    sandbox.may_answer.set()
    recognized(page)
    page.text_input(key="model-name").set_value("mine again").run()
    assert "A network." in texts(page)
    assert "model-architecture" in keys(page), "nothing fits"
    assert sandbox.asked == [("net.pt", b"tensors", "")]


def test_a_file_that_cannot_be_recognized_says_why_and_can_still_be_described(world: World, sandbox: Sandbox) -> None:
    sandbox.answer = IntakeError("It is a text.", "Upload the weights.")
    sandbox.may_answer.set()
    page = dropped()
    recognized(page)
    assert "It is a text. Upload the weights." in texts(page)
    assert "model-architecture" in keys(page)


def test_a_large_file_is_read_at_the_button(world: World, sandbox: Sandbox) -> None:
    sandbox.may_answer.set()
    page = dropped(b"eleven byte")
    assert sandbox.asked == []
    recognized(page)
    assert "A network." in texts(page)
    assert len(sandbox.asked) == 1


def test_of_several_sets_the_chosen_one_is_recognized(world: World, sandbox: Sandbox) -> None:
    sandbox.answer = Inspection(format=None, what="It holds two sets.", sets=("student", "teacher"))
    sandbox.may_answer.set()
    page = dropped()
    recognized(page)
    assert page.selectbox(key="model-set").options == ["student", "teacher"]
    assert "It holds two sets. Choose one under 'Set of weights'." in texts(page)
    sandbox.answer = Inspection(format=None, what="The teacher.")
    page.selectbox(key="model-set").set_value("teacher").run()
    recognized(page)
    assert "The teacher." in texts(page)
    assert [weights for _, _, weights in sandbox.asked] == ["", "teacher"]


def test_where_the_size_is_open_that_of_a_data_set_with_as_many_classes_is_proposed(
    world: World, sandbox: Sandbox
) -> None:
    pytest.importorskip("timm")
    kept = world.client.library.dataset("random")
    ids = {}
    for name, shape in (("ten", [3, 12, 12]), ("more", [3, 10, 10]), ("grey", [1, 9, 9])):
        manifest = {**kept.manifest, "shape": shape, "num_classes": 10}
        ids[name] = world.client.backend.registry.add_dataset(name, content=kept.content, manifest=manifest).id
    one = proposal(model="convnext_atto", num_classes=10, height=224, width=224)
    sandbox.answer = Inspection(format=None, what="A ConvNeXt.", proposals=(one,))
    sandbox.may_answer.set()
    page = dropped()
    recognized(page)
    size = page.selectbox(key="model-size-the one that fits")
    assert size.options == [
        "10x10, as in more",
        "12x12, as in ten",
        "6x6, as in random",
        "224x224, usual for this network",
        "another size",
    ]
    assert size.value == "10x10, as in more"
    assert page.selectbox(key="model-vet").value == ids["more"], "what fits is vetted on"
    size.set_value("12x12, as in ten").run()
    assert page.selectbox(key="model-vet").value == ids["ten"]
