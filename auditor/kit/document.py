"""Data, Spec, Document: frozen models of what is kept, of what is asked for, and of results that outlive the code."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from auditor.kit.errors import IntakeError, SpecError


def nothing(value: object) -> bool:
    """Whether a field holds nothing; with ``exclude_if`` it is then not written, and files stay as they were before it came."""
    return not value


class Data(BaseModel):
    """A part of something that is kept: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spec(Data):
    """What is asked for; its JSON is the whole of it. ``subject`` names it in messages."""

    model_config = ConfigDict(allow_inf_nan=False)

    subject: ClassVar[str]

    @classmethod
    def load(cls, data: object) -> Self:
        """From plain data or JSON text. Raises SpecError with the field, what was expected and what came."""
        try:
            return cls.model_validate_json(data) if isinstance(data, str | bytes) else cls.model_validate(data)
        except ValidationError as error:
            raise SpecError.from_validation(cls.subject, error, cls) from None


class Document(Data):
    """A result that is stored as JSON and read by later versions.

    A subclass sets the default of ``version`` and raises it when its form changes; ``lift`` then brings older forms up to
    date. ``subject`` names it in messages.
    """

    subject: ClassVar[str]

    version: int = 1

    @classmethod
    def lift(cls, data: dict[str, object]) -> dict[str, object]:
        """Stored fields of any older version, in the form of today. What has that form already passes unchanged."""
        return data

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = cls.model_fields["version"].default
        if isinstance(data.get("version"), int) and data["version"] > known:
            raise ValueError(
                f"it has version {data['version']}, and this version of Neuron Auditor reads up to {known}"
            )
        return cls.lift(data) | {"version": known}

    @classmethod
    def load(cls, content: str | bytes) -> Self:
        """A stored result. Raises IntakeError for one that is damaged or of a later version of the product."""
        try:
            return cls.model_validate(json.loads(content))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            why = f"{field}: {first['msg']}" if field else first["msg"].removeprefix("Value error, ")
        except ValueError:
            why = "it is not JSON"
        raise IntakeError(
            f"The stored {cls.subject} cannot be read: {why}.",
            "If a later version wrote it, upgrade Neuron Auditor. Otherwise it is damaged: run the job again.",
        )
