"""What was audited: the model, the data, the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import JsonValue

from auditor.auditing.result import AuditResult
from auditor.models.classifier import Normalization
from auditor.report.classes import class_match_table
from auditor.report.section import ReportSection
from auditor.show.blocks import Column, Section, Table, Text


class Scope(ReportSection):
    """Model and data with their hashes, and what the numbers do and do not cover."""

    kind: Literal["scope"] = "scope"
    order: ClassVar[int] = 70

    def build(self, result: AuditResult) -> Section:
        model, data, classes = result.provenance.model, result.provenance.dataset, result.provenance.classes
        facts: dict[str, str | int] = {
            "Model": model.name,
            "Weights (SHA-256)": model.sha256 or "not stored",
            "Architecture": _architecture(model.architecture),
            "Parameters": f"{model.parameters:,}".replace(",", " "),
            "Input": f"{' x '.join(map(str, model.input_shape))} (channels, height, width), pixels in [0, 1]",
            "Normalization (declared)": str(Normalization.model_validate(model.normalization)),
            **({"How it was measured": " ".join(model.notes)} if model.notes else {}),
            "Classes": model.num_classes,
            "Data set": data.name,
            "Data (SHA-256)": data.sha256 or "not stored",
            **({"How the data was read": " ".join(data.notes)} if data.notes else {}),
            **({"Classes of the data": f"matched {classes.describe()}"} if classes is not None else {}),
            "Samples audited": f"{len(result.samples)} of {data.samples}, drawn by seed {result.spec.seed}",
            "Clean accuracy": str(result.clean_accuracy),
        }
        if result.random:
            draws, batch = result.spec.draws, result.provenance.batch_size
            facts["Answers"] = f"at random: means over {draws} draws, seeded, in batches of {batch}"
        return Section(
            key=self.kind,
            title="What was audited",
            blocks=(
                Table(
                    columns=(Column(key="name", title="Fact"), Column(key="value", title="Value")),
                    rows=tuple({"name": name, "value": value} for name, value in facts.items()),
                ),
                *class_match_table(classes, model.class_names),
                Text(
                    text="Robust accuracy is measured, not proved: it is the share of these samples on which the attacks named "
                    "here found nothing, so it bounds the true robust accuracy from above. Intervals (Wilson, 95 %) cover the "
                    "choice of the samples, not the choice of the attacks, and hold only for data like these.",
                    tone="note",
                ),
            ),
        )


def _architecture(architecture: Mapping[str, JsonValue] | None) -> str:
    if architecture is None:
        return "given as a network in Python"
    parts = [f"{name} {value}" for name, value in architecture.items() if name not in ("kind", "layers")]
    layers = architecture.get("layers")
    return ", ".join(
        [str(architecture["kind"]), *([f"{len(layers)} layers"] if isinstance(layers, list) else []), *parts]
    )
