"""Documents: older forms are lifted, later ones and damaged ones are refused in words."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from auditor.auditing.result import AuditResult
from auditor.auditing.vet import ClassifierCard
from auditor.defending.evaluation import DefenseEvaluation
from auditor.defending.playground import PlayDocument
from auditor.defending.table import DefenseTable
from auditor.hardening.result import TrainingResult
from auditor.kit.document import Document
from auditor.kit.errors import IntakeError

DOCUMENTS = (AuditResult, ClassifierCard, DefenseTable, DefenseEvaluation, PlayDocument, TrainingResult)


class Note(Document):
    subject: ClassVar[str] = "note"

    version: int = 3
    text: str

    @classmethod
    def lift(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {"text": data["words"]} if "words" in data else data


def test_an_older_form_is_lifted_and_written_in_todays() -> None:
    for old in ({"words": "kept"}, {"version": 1, "words": "kept"}, {"version": 3, "text": "kept"}):
        assert json.loads(Note.load(json.dumps(old)).model_dump_json()) == {"version": 3, "text": "kept"}
    assert Note(text="made").version == 3


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.__name__)
def test_every_document_says_what_it_cannot_read(document: type[Document]) -> None:
    with pytest.raises(IntakeError, match=f"The stored {document.subject} cannot be read: it is not JSON") as refused:
        document.load(b"{")
    assert "run the job again" in refused.value.hint
    with pytest.raises(IntakeError, match="it has version 99, and this version of Neuron Auditor reads up to"):
        document.load('{"version": 99}')
    with pytest.raises(IntakeError, match="Field required"):
        document.load("{}")
    for other in ("[]", "3"):
        with pytest.raises(IntakeError, match="cannot be read"):
            document.load(other)
