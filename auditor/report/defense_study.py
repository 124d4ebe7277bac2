"""The whole study of a stored defense as sections, and as one HTML file."""

from __future__ import annotations

from auditor.defense_study import DefenseStudy
from auditor.report.blocks import Column, Section, Table, Text
from auditor.report.defense import evaluation_sections
from auditor.report.defense_beside import controls_section, sweeps_section
from auditor.report.html import page


def study_sections(study: DefenseStudy) -> list[Section]:
    """In the order in which they are to be read."""
    verdict, table, static, quality, *reproduction = evaluation_sections(study.evaluation, study.flags)
    found = [
        verdict,
        table,
        static,
        controls_section(study),
        sweeps_section(study),
        quality,
        *reproduction,
        _method(study),
    ]
    return [section for section in found if section is not None]


def render_study(study: DefenseStudy, *, title: str) -> str:
    """The report of a study: one HTML file, every chart inside it."""
    made = f"Neuron Auditor {study.versions['neuron-auditor']}, {study.started} (UTC)"
    return page(f"Defense report: {title}", made, study_sections(study))


def _method(study: DefenseStudy) -> Section:
    """What was fitted and evaluated, on what, and with what."""
    lineage, evaluation = study.lineage, study.evaluation
    learnt = (
        f"{lineage.count} images of {lineage.dataset} (SHA-256 {lineage.dataset_sha256})" if lineage.dataset else "–"
    )
    rows = {
        "defenses, in the order in which an image passes them": "; ".join(
            item.describe() for item in evaluation.defenses
        ),
        "model": f"{lineage.classifier} (SHA-256 of its stored weights {study.weights or '–'})",
        "fitted on": learnt,
        "evaluated on": f"{len(evaluation.samples)} of {study.dataset.samples} samples of {study.dataset.name} "
        f"(SHA-256 {study.dataset.sha256})",
        **({"how the data was read": " ".join(study.dataset.notes)} if study.dataset.notes else {}),
        "threat model": str(evaluation.threat),
        "the defense moves an image by (root mean square)": f"{study.size:.3g}",
        **study.versions,
        "revision": study.revision or "installed package",
        "device": study.device,
        "seconds": f"{study.seconds:.1f}",
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
            Text(text=study.spec.model_dump_json(indent=2), tone="code"),
        ),
    )
