"""Forms made from the catalogues: a capability's fields become widgets, and their values a capability again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import streamlit as st
from pydantic import BaseModel, ValidationError

from auditor.kit.capability import Capability, Catalog
from auditor.kit.errors import SpecError

C = TypeVar("C", bound=Capability)
M = TypeVar("M", bound=BaseModel)


def capability(
    catalog: Catalog[C],
    kind: str,
    key: str,
    *,
    skip: Sequence[str] = (),
    given: dict[str, Any] | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> C:
    """The form of one member; raises SpecError if the values do not make one. ``given`` fills what ``skip`` leaves out,
    ``defaults`` stand in for the member's own."""
    member = catalog[kind]
    values = fields(member, f"{key}-{kind}", skip=("kind", *skip), defaults=defaults)
    return catalog.build(kind, values | (given or {}))


def fields(
    model: type[BaseModel],
    key: str,
    *,
    skip: Sequence[str] = (),
    only: Sequence[str] | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """One widget per field, in up to three columns; returns their values by name. ``defaults`` stand in for the model's own."""
    described = model.model_json_schema()["properties"]
    described = {
        name: schema | ({"default": defaults[name]} if name in defaults else {}) for name, schema in described.items()
    }
    chosen = [name for name in described if name not in skip and (only is None or name in only)]
    wide = [name for name in chosen if _is_long(described[name])]
    narrow = [name for name in chosen if name not in wide]
    values: dict[str, Any] = {}
    for start in range(0, len(narrow), 3):  # by rows, so that a narrow window keeps the order
        for place, name in zip(st.columns(min(3, len(narrow))), narrow[start : start + 3], strict=False):
            with place:
                values[name] = _widget(name, model, described[name], f"{key}-{name}")
    for name in wide:
        values[name] = _widget(name, model, described[name], f"{key}-{name}")
    return {name: values[name] for name in chosen}


def checked(model: type[M], values: dict[str, Any], subject: str) -> M:
    """The model with these values. Raises SpecError, which names the ``subject``."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SpecError.from_validation(subject, error, model) from None


def label_of(name: str) -> str:
    """``step_size`` -> ``Step size``."""
    return name.replace("_", " ").capitalize()


def _widget(name: str, model: type[BaseModel], schema: dict[str, Any], key: str) -> Any:
    """The widget that fits a field's JSON schema."""
    field = model.model_fields[name]
    default = schema.get("default", field.get_default(call_default_factory=True))
    label, text = label_of(name), schema.get("description")
    optional = next((item for item in schema.get("anyOf", ()) if item.get("type") in ("integer", "number")), None)
    if optional is not None:
        typed = st.text_input(label, "" if default is None else f"{default:g}", help=text, key=key, placeholder="none")
        return typed.strip() or None
    if "enum" in schema:
        options = schema["enum"]
        return st.selectbox(label, options, index=options.index(default), help=text, key=key)
    match schema.get("type"):
        case "boolean":
            return st.checkbox(label, value=bool(default), help=text, key=key)
        case "integer":
            low, high = _bounds(schema, 1)
            return st.number_input(label, low, high, int(default), 1, help=text, key=key)
        case "number":
            return st.number_input(label, value=float(default), format="%g", step=None, help=text, key=key)
        case "string":
            return st.text_input(label, str(default), help=text, key=key)
    shown = default if isinstance(default, str) else json.dumps(default, default=_dump)
    typed = st.text_area(label, shown, help=text, key=key, height=160)
    try:
        return json.loads(typed)
    except ValueError:
        return typed  # the field says what it makes of it


def _bounds(schema: dict[str, Any], step: int) -> tuple[int | None, int | None]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + step
    return (None if low is None else int(low)), (None if high is None else int(high))


def _is_long(schema: dict[str, Any]) -> bool:
    kinds = {item.get("type") for item in schema.get("anyOf", ())} | {schema.get("type")}
    return "array" in kinds or "object" in kinds


def _dump(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {"type": getattr(value, "type", "")} | value.model_dump(mode="json", exclude_defaults=True)
    return str(value)
