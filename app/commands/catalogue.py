"""Help that is made from the catalogues: a new attack shows up in it by being there."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar

from typer.core import TyperCommand

from auditor.kit.plugins import origin

if TYPE_CHECKING:
    from auditor.kit.capability import Capability


class CatalogueCommand(TyperCommand):
    """A command whose help ends with presets and the members of some catalogues (``module:NAME``) and the fields
    of a model that are set by name, but for those of ``not_by_name``; all read when help is wanted."""

    catalogues: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[str] = ""
    fields: ClassVar[str] = ""
    not_by_name: ClassVar[tuple[str, ...]] = ()

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.presets:
            with formatter.section("Presets"):
                named = _load(self.presets).items()
                formatter.write_dl([(name, f"{preset.title}. {preset.summary}") for name, preset in named])
        for name in self.catalogues:
            catalogue = _load(name)
            with formatter.section(f"{catalogue.noun.capitalize()} kinds (kind:name=value,name=value)"):
                formatter.write_dl([(member.kind_name(), _described(member)) for member in catalogue])
                for fault in catalogue.faults.values():
                    formatter.write_text(fault.message)
        if self.fields:
            with formatter.section("Settings (--set name=value)"):
                named = _load(self.fields).model_fields.items()
                formatter.write_dl(
                    [
                        (name, f"[{_default(field)}] {field.description}")
                        for name, field in named
                        if name not in self.not_by_name
                    ]
                )
        super().format_epilog(ctx, formatter)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _described(member: type[Capability]) -> str:
    parts = [f"{name}={_default(field)}: {field.description or ''}" for name, field in member.parameters().items()]
    came = origin(member)
    whose = [] if came is None else [f"(From the plug-in {came}.)"]
    return " ".join([member.summary(), *whose, *(f"[{part}]" for part in parts)])


def _default(field: Any) -> str:
    if field.is_required():
        return "..."
    value = field.get_default(call_default_factory=True)
    if isinstance(value, tuple):
        return "+".join(map(_shown, value))
    return "empty" if value is None else _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
