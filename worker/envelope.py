"""What Celery takes for granted in a message: one that does not fit would end the worker, or stall it for ever.

Celery reads the headers of a task in its main loop and in the threads of its pool, and catches only the faults it
expects: ``eta: ""`` ends the worker, ``shadow: [1]`` keeps a slot of its pool for ever (measured with Celery 5.7.0).
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

from kombu.utils.json import loads
from pydantic import AfterValidator, BaseModel, Field, JsonValue, TypeAdapter

_Moment = Annotated[str, AfterValidator(datetime.fromisoformat)]


class _Delivery(BaseModel):
    exchange: str
    routing_key: str


class _Properties(BaseModel):
    delivery_tag: str
    delivery_info: _Delivery
    body_encoding: Literal["base64"]
    correlation_id: str | None = None
    reply_to: str | None = None


class _MessageHeaders(BaseModel):
    """Of any message: also of a ping, and of its answer."""

    compression: None = None  # we send none compressed, and a few bytes could expand to all of the memory
    clock: int | None = None
    expires: float | str | None = None
    ticket: str | None = None


class _TaskHeaders(_MessageHeaders):
    task: str
    id: str
    shadow: str | None = None
    eta: _Moment | None = None
    expires: _Moment | None = None
    group: str | None = None
    group_index: int | None = None
    retries: int | None = None
    timelimit: Annotated[list[float | None], Field(min_length=2, max_length=2)] = [None, None]
    root_id: str | None = None
    parent_id: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, JsonValue] | None = None


class _Embedded(BaseModel):
    callbacks: list[dict[str, JsonValue]] | None = None
    errbacks: list[dict[str, JsonValue]] | None = None
    chain: list[dict[str, JsonValue]] | None = None
    chord: dict[str, JsonValue] | None = None


class _Message(BaseModel):
    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    properties: _Properties
    headers: dict[str, JsonValue]


_TASK_BODY = TypeAdapter(tuple[list[JsonValue], dict[str, JsonValue], _Embedded | None])
_OTHER_BODY = TypeAdapter(dict[str, JsonValue] | list[JsonValue])


def decoded(content: bytes) -> dict[str, Any]:
    """Decode ``content`` into a kombu message. Raises some Exception if it is not a message."""
    message = _Message.model_validate_json(content)
    body = base64.b64decode(message.body, validate=True)
    if "task" in message.headers:
        _TaskHeaders.model_validate(message.headers, strict=True)
        _TASK_BODY.validate_json(body, strict=True)
    else:
        _MessageHeaders.model_validate(message.headers, strict=True)
        other = _OTHER_BODY.validate_json(body)
        if isinstance(other, dict) and "task" in other:
            raise ValueError("a task in the first version of Celery's protocol, which nobody sends")
    payload: dict[str, Any] = loads(content)
    loads(body)  # kombu's JSON also holds dates and bytes, which may be wrong in their own way
    return payload
