"""The whole evaluation of a stored defense as sections, and as one HTML file."""

from __future__ import annotations

from auditor.defending.evaluation import DefenseEvaluation
from auditor.report.classes import class_match_table
from auditor.report.defense_beside import controls_section, sweeps_section
from auditor.report.defense_table import table_sections
from auditor.report.html import page
from auditor.show.blocks import Column, Section, Table, Text


def evaluation_sections(evaluation: DefenseEvaluation) -> list[Section]:
    """In the order in which they are to be read."""
    verdict, table, static, quality, *reproduction = table_sections(evaluation.table, evaluation.flags)
    found = [
        verdict,
        table,
        static,
        controls_section(evaluation),
        sweeps_section(evaluation),
        quality,
        *reproduction,
        _method(evaluation),
    ]
    return [section for section in found if section is not None]


def render_evaluation(evaluation: DefenseEvaluation, *, title: str) -> str:
    """The report of an evaluation: one HTML file, every chart inside it."""
    made = f"Neuron Auditor {evaluation.provenance.product}, {evaluation.provenance.started} (UTC)"
    return page(f"Defense report: {title}", made, evaluation_sections(evaluation))


def _method(evaluation: DefenseEvaluation) -> Section:
    """What was fitted and evaluated, on what, and with what."""
    lineage, table = evaluation.lineage, evaluation.table
    learnt = (
        f"{lineage.count} images of {lineage.dataset} (SHA-256 {lineage.dataset_sha256})" if lineage.dataset else "–"
    )
    rows = {
        "defenses, in the order in which an image passes them": "; ".join(item.describe() for item in table.defenses),
        "model": f"{lineage.classifier} (SHA-256 of its stored weights {evaluation.weights or '–'})",
        "fitted on": learnt,
        "evaluated on": f"{len(table.samples)} of {evaluation.dataset.samples} samples of {evaluation.dataset.name} "
        f"(SHA-256 {evaluation.dataset.sha256})",
        **({"how the data was read": " ".join(evaluation.dataset.notes)} if evaluation.dataset.notes else {}),
        **(
            {"classes of the data": f"matched {evaluation.classes.describe()}"}
            if evaluation.classes is not None
            else {}
        ),
        "threat model": str(table.threat),
        "the defense moves an image by (root mean square)": f"{evaluation.size:.3g}",
        **evaluation.provenance.lines(),
    }
    return Section(
        key="reproduce",
        title="What was measured, and how",
        blocks=(
            Text(
                text="Every attack on the defended model knows model and defense, goes backwards through the declared "
                "approximations (BPDA) and averages over draws of its own (EOT). The same specification on the same kind of "
                "device gives the same verdicts."
            ),
            Table(
                columns=(Column(key="name", title="What"), Column(key="value", title="Value")),
                rows=tuple({"name": name, "value": value} for name, value in rows.items()),
            ),
            *class_match_table(evaluation.classes, evaluation.dataset.class_names),
            Text(text=evaluation.spec.model_dump_json(indent=2), tone="code"),
        ),
    )
