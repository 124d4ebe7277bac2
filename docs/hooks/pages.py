"""Pages that the site makes itself: one for every member of every catalogue, the API, and the files of the repository's root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import auditor
from auditor.kit.capability import Capability, Catalog

ROOT = Path(__file__).parents[2]
COPIED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
CATALOGUES: dict[str, Catalog[Any]] = {
    name: getattr(auditor, name) for name in auditor.__all__ if isinstance(getattr(auditor, name), Catalog)
}
TITLES = {"HARDENINGS": "Hardening methods"}
GIVEN = {
    "An attack": ("attacking.attack:Rows", "attacking.attack:Query", "attacking.attack:Gradient",
                  "attacking.attack:Jacobian", "attacking.threat:Ball", "attacking.evaluation:run_attack"),
    "An analysis": ("neural.analysis:Subject", "neural.analysis:Pair", "models.neurons:watch", "models.neurons:altered",
                    "models.neurons:list_layers", "neural.found:OfPairs", "neural.found:LayerRow", "neural.found:shown",
                    "neural.found:table", "kit.statistics.estimate:Estimate", "neural.analysis:NeuronMeasure",
                    "show.blocks:Text", "show.blocks:Measures", "show.blocks:Table", "show.blocks:Figure", "kit.flag:Flag"),
    "A check": ("auditing.inquiry:Inquiry", "auditing.allowance:Allowance", "auditing.check:ThreatCheck",
                "kit.flag:Opinion"),
    "A corruption": ("auditing.corruption:Draws",),
    "A defense": ("models.defended:Passing", "models.defended:FittedState"),
    "A hardening method": ("hardening.hardening:TrainingStep", "hardening.hardening:Ground", "hardening.hardening:Terms"),
}  # fmt: skip
"""What the methods of a member get and return, by the sort of member; a class is described where it is first used."""
FUNCTIONS = ("audit", "certify", "report", "compare", "train", "fit", "evaluate_defense", "sample")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; those of members are reached from their catalogue's page."""
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> dict[str, str]:
    """Place in the site -> Markdown, for every page that is made."""
    made = {target: _moved((ROOT / source).read_text()) for source, target in COPIED.items()}
    for name, catalogue in CATALOGUES.items():
        folder = name.lower()
        made[f"catalogue/{folder}.md"] = overview(name, catalogue)
        for member in catalogue:
            made[f"catalogue/{folder}/{member.kind_name()}.md"] = page(folder, catalogue, member)
    made["api.md"] = api()
    made["members.md"] = given()
    return made


def overview(name: str, catalogue: Catalog[Any]) -> str:
    """The table of a catalogue's members."""
    folder = name.lower()
    rows = []
    for member in catalogue:
        kind = member.kind_name()
        rows.append(f"| [`{kind}`]({folder}/{kind}.md) | {_cell(member.display_title())} | {_cell(member.summary())} |")
    heading = TITLES.get(name, name.capitalize())
    return "\n".join(
        [f"# {heading}", "", f"There are {len(catalogue)}.", "", "| Kind | Name | |", "|---|---|---|", *rows, ""]
    )


def page(folder: str, catalogue: Catalog[Any], member: type[Capability]) -> str:
    """One member: what it is, how it is named, and its parameters."""
    rows = [
        f"| `{name}` | {_cell(_default(field))} | {_cell(_bounds(field))} | {_cell(field.description or '')} |"
        for name, field in member.parameters().items()
    ]
    table = ["| Parameter | Default | Bounds | |", "|---|---|---|---|", *rows] if rows else ["It has no parameters."]
    text = (member.__doc__ or "").strip().split("\n\n")
    rest = [" ".join(part.split()) for part in text[1:]]
    return "\n".join([
        f"# {member.display_title()}", "", member.summary(), "", *(f"{_plain(part)}\n" for part in rest),
        f"Kind: `{member.kind_name()}`. Module: `{member.__module__}`.", "", "## Parameters", "", *table, "",
        f"[All {TITLES.get(folder.upper(), folder).lower()}](../{folder}.md)", "",
    ])  # fmt: skip


def api() -> str:
    """The public functions, then the public classes."""
    classes = [name for name in auditor.__all__ if not name.isupper() and name[0].isupper()]
    parts = ["# API", "", "What `auditor` exports. Everything else may change without notice.", ""]
    for name in (*FUNCTIONS, *classes):
        item = getattr(auditor, name)
        place = "auditor.report.html.render" if name == "report" else f"{item.__module__}.{item.__qualname__}"
        parts += [f"::: {place}", "    options:", f"      heading: auditor.{name}", f"      toc_label: {name}", ""]
    return "\n".join(parts)


def given() -> str:
    """The classes and functions that a member works with, for those who write one."""
    parts = [
        "# What a member gets",
        "",
        "The classes and functions that the examples of [Extending](extending.md) use.",
        "",
    ]
    for heading, items in GIVEN.items():
        parts += [f"## {heading}", ""]
        for item in items:
            module, _, name = item.partition(":")
            parts += [f"::: auditor.{module}.{name}", "    options:", "      heading_level: 3", ""]
    return "\n".join(parts)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{value}`" if not isinstance(value, str) or value else "empty"


def _bounds(field: Any) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in signs.items()
        if isinstance(getattr(item, name, None), int | float)
    )


def _plain(text: str) -> str:
    return text.replace("``", "`").replace("<", "&lt;")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _moved(text: str) -> str:
    """Links of a file in the root, as they are from the documents' folder."""
    text = re.sub(r"\]\(docs/", "](", text)
    for source, target in COPIED.items():
        text = text.replace(f"]({source})", f"]({target})")
    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)[^)]*(?<!\.md)\)", r"\1", text)
