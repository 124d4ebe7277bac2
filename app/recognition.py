"""What a file of a model is: found in the sandbox in the background when it is dropped, or at a button for a large file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import streamlit as st

from app.state import client
from app.text import plain
from auditor.data.intake.asked import Asked
from auditor.data.intake.inspection import Inspection
from auditor.kit.errors import AuditorError
from worker.client import Client

LARGEST = 128 << 20
"""Bytes up to which a file is recognized as soon as it is there: some seconds, most of them the start of the sandbox."""

KEPT = "model-recognitions"
"""In the session: the newest recognition, by what was asked."""

RECOGNIZING = "Recognizing the file in a sandbox."


class Chosen(NamedTuple):
    """The file of the form, of ``size`` bytes, and what the user says of it. ``id``: of the upload, empty for a file of the
    inbox."""

    name: str
    id: str
    size: int
    opened: Callable[[], BinaryIO]
    weights: str
    asked: Asked

    @property
    def question(self) -> str:
        return f"{self.id} {self.name} {self.weights} {self.asked}"


class Recognition:
    """One reading, under way or done. ``notice``: why it waits, in a sentence."""

    def __init__(self, chosen: Chosen, client: Client) -> None:
        self.notice = ""
        stream = chosen.opened()
        self._done: Future[Inspection] = _readers().submit(self._read, client, stream, chosen)

    @property
    def ended(self) -> bool:
        return self._done.done()

    def found(self) -> Inspection:
        """Raises the AuditorError that says why the file cannot be recognized."""
        return self._done.result()

    def _read(self, client: Client, stream: BinaryIO, chosen: Chosen) -> Inspection:
        with stream:
            return client.library.inspect_model(
                stream, chosen.name, weights=chosen.weights, on_wait=self._wait, asked=chosen.asked
            )

    def _wait(self, sentence: str) -> None:
        self.notice = sentence


@st.cache_resource(show_spinner=False)
def _readers() -> ThreadPoolExecutor:
    """For all sessions; each reading is a process of its own, and their memory has a budget."""
    return ThreadPoolExecutor(4, "recognition")


def recognized(chosen: Chosen) -> tuple[Inspection | None, bool]:
    """What the file turned out to be, None where nobody asked or it failed; and whether it is still being read."""
    kept: dict[str, Recognition] = st.session_state.setdefault(KEPT, {})
    if chosen.question not in kept and (chosen.size <= LARGEST or _pressed()):
        kept.clear()
        kept[chosen.question] = Recognition(chosen, client())
    recognition = kept.get(chosen.question)
    if recognition is None:
        return None, False
    if not recognition.ended:
        _watch(chosen.question)
        return None, True
    try:
        return recognition.found(), False
    except AuditorError as error:
        st.warning(f"{plain(error.message)} {plain(error.hint)}".strip())
        return None, False


def _pressed() -> bool:
    return st.button(
        "What is this file?", key="model-inspect", help="The file itself, or names and shapes of its tensors, say it."
    )


@st.fragment(run_every=1.0)
def _watch(question: str) -> None:
    """How the reading gets on; the whole page is drawn again when it has ended."""
    recognition: Recognition | None = st.session_state.get(KEPT, {}).get(question)
    if recognition is None or recognition.ended:
        st.rerun()
    st.info(plain(f"{RECOGNIZING} {recognition.notice}".strip()), icon=":material/hourglass_top:")
