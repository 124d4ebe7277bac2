"""Two audits side by side: paired differences on the samples that both saw, curves and layers on the same scales."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auditor.attacking.threat import ThreatModel
from auditor.auditing.result import AuditResult
from auditor.kit.errors import MismatchError
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import in_points, paired_difference, paired_means
from auditor.models.class_numbers import plain_name
from auditor.neural.analysis import keyed, section_of, sections_of
from auditor.report.sections.curve import curve_options, curve_rows
from auditor.show.blocks import AnyBlock, Column, Figure, Row, Section, Table, Text, apart
from auditor.show.charts import OVERLAYING, domain_of


def compare(first: AuditResult, second: AuditResult) -> list[Section]:
    """What changed from the first audit to the second.

    Rates are compared on the samples that both audits used, paired. Raises MismatchError when the audits are of
    different data, or share no sample.
    """
    pick_first, pick_second = _common(first, second)
    names = _names(first, second)
    return [
        _differences(first, second, pick_first, pick_second, names),
        *_corruptions(first, second, pick_first, pick_second, names),
        *_curves(first, second, names),
        *_layers(first, second, names),
        _settings(first, second, names),
    ]


def _common(first: AuditResult, second: AuditResult) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions, in each audit's sample table, of the samples that both hold."""
    mine, theirs = first.provenance.dataset, second.provenance.dataset
    if mine.sha256 != theirs.sha256 or not mine.sha256:
        raise MismatchError(
            f"The audits used different data: {mine.name} ({mine.sha256}) and {theirs.name} ({theirs.sha256}).",
            "A comparison needs the same samples: audit both models on one data set.",
        )
    _, pick_first, pick_second = np.intersect1d(first.samples.ids, second.samples.ids, return_indices=True)
    if len(pick_first) == 0:
        raise MismatchError("The audits share no sample.", "Audit both with the same seed and number of samples.")
    truths = zip(_truths(first, pick_first), _truths(second, pick_second), strict=True)
    alike = _alike(first, second)
    if differ := sum(one[0] != other[0] and (alike or one[1] != other[1]) for one, other in truths):
        raise MismatchError(
            f"The audits do not agree on the true classes of {differ} of {len(pick_first)} samples: labels were read in "
            "different ways.",
            "Run the older audit again, and compare the new one.",
        )
    return pick_first, pick_second


def _alike(first: AuditResult, second: AuditResult) -> bool:
    """Whether labels of both are numbers of the same list of classes."""
    models, data = (
        [getattr(item.provenance, name).class_names for item in (first, second)] for name in ("model", "dataset")
    )
    return models[0] == models[1] or None in data


def _truths(audit: AuditResult, pick: NDArray[np.int64]) -> list[tuple[int, str]]:
    """The true classes of these samples: their numbers, and what the data set calls them (nothing where it has no names)."""
    labels, names = np.array(audit.samples.labels, np.int64)[pick].tolist(), audit.provenance.dataset.class_names
    return [(label, plain_name(names[label]) if names is not None else "") for label in labels]


def _names(first: AuditResult, second: AuditResult) -> tuple[str, str]:
    """What to call the two: the models' names, told apart where they are the same."""
    one, other = first.provenance.model.name, second.provenance.model.name
    return (one, other) if one != other else (f"{one} (first)", f"{other} (second)")


def _differences(
    first: AuditResult,
    second: AuditResult,
    pick_first: NDArray[np.int64],
    pick_second: NDArray[np.int64],
    names: tuple[str, str],
) -> Section:
    n = len(pick_first)
    blocks: list[AnyBlock] = []
    if n < max(len(first.samples), len(second.samples)):
        text = f"The audits hold {len(first.samples)} and {len(second.samples)} samples; compared are the {n} that both used."
        blocks.append(Text(text=text, tone="note"))
    shared = [threat for threat in first.spec.threats if threat in second.spec.threats]
    alike = first.spec.goal == second.spec.goal
    missing = [threat for audit in (first, second) for threat in audit.spec.threats if threat not in shared]
    if missing:
        text = f"Not compared, since only one audit has it: {', '.join(str(threat) for threat in missing)}."
        blocks.append(Text(text=text, tone="warning"))
    if not alike:
        blocks.append(Text(text=f"Robust accuracies are not compared. {_goals(first, second, names)}", tone="warning"))
    elif first.spec.attacks != second.spec.attacks:
        blocks.append(
            Text(text="The audits used different attacks; the difference reflects that, too.", tone="warning")
        )
    withheld = [name for name, audit in zip(names, (first, second), strict=True) if audit.headline_withheld]
    if withheld:
        models = " and ".join(withheld)
        text = f"Not established: the robust accuracy of {models} is withheld because of a severe doubt."
        blocks.append(Text(text=text, tone="bad"))
    either = first.random or second.random
    vote = ", majority vote" if either else ""
    rows = [_row(f"clean accuracy{vote}", first.samples.correct[pick_first], second.samples.correct[pick_second])]
    rows += [_mean_row("clean accuracy", first.clean_right[pick_first], second.clean_right[pick_second])] * either
    for threat in shared if alike and not withheld else ():
        pair = first.robust(threat)[pick_first], second.robust(threat)[pick_second]
        rows.append(_row(f"robust accuracy, {threat}{vote}", *pair))
        if either:
            means = first.held(threat)[pick_first], second.held(threat)[pick_second]
            rows.append(_mean_row(f"robust accuracy, {threat}", *means))
    blocks.append(
        Table(
            columns=_columns(names),
            rows=tuple(rows),
            caption=f"n = {n}. Difference: second minus first, in points, with the paired interval of Agresti and Min. 'Only' "
            "counts the samples that one model gets right (or keeps right) and the other does not. p: exact McNemar test."
            + (" Means over draws: the interval and p of the paired t test over the samples." if either else ""),
        )
    )
    return Section(key="differences", title="What differs", blocks=tuple(blocks))


def _goals(first: AuditResult, second: AuditResult, names: tuple[str, str]) -> str:
    """Why audits of unlike goals have nothing in common but the samples."""
    return (
        f"The attacker's goal is {first.goal} against {names[0]}, and {second.goal} against {names[1]}: one particular "
        "wrong class is harder to reach than any wrong class, so neither their robust accuracies nor their "
        "adversarial images can be compared. Audit both with the same goal."
    )


def _columns(names: tuple[str, str]) -> tuple[Column, ...]:
    titles = {
        "what": "Share of the same samples",
        "difference": "Difference [95 %]",
        "p": "p (McNemar)",
        "first": names[0],
        "second": names[1],
        "only_first": f"Only {names[0]}",
        "only_second": f"Only {names[1]}",
    }
    told = dict(zip(titles, apart(titles.values()), strict=True))
    order = ("what", "first", "second", "difference", "only_first", "only_second", "p")
    return tuple(Column(key=key, title=told[key]) for key in order)


def _corruptions(
    first: AuditResult,
    second: AuditResult,
    pick_first: NDArray[np.int64],
    pick_second: NDArray[np.int64],
    names: tuple[str, str],
) -> list[Section]:
    """The corruptions that both audits measured, on the very same corrupted images."""
    theirs = {record.corruption: record for record in second.corruptions} if first.spec.seed == second.spec.seed else {}
    rows = tuple(
        _row(
            f"accuracy, {record.corruption.display_title()}, severity {record.corruption.severity}",
            first.corrupted(record)[pick_first],
            second.corrupted(theirs[record.corruption])[pick_second],
        )
        for record in first.corruptions
        if record.corruption in theirs
    )
    table = Table(
        columns=_columns(names),
        rows=rows,
        caption=f"n = {len(pick_first)}, the same corrupted images; columns as above. With many rows some p are small by chance.",
    )
    return [Section(key="corruptions", title="Common corruptions", blocks=(table,))] if rows else []


def _row(what: str, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Row:
    difference = paired_difference(first, second)
    return {
        "what": what,
        "first": str(Rate.of(first)),
        "second": str(Rate.of(second)),
        "difference": in_points(difference),
        "only_first": difference.only_a,
        "only_second": difference.only_b,
        "p": f"{difference.p:.2g}" if difference.p >= 0.0001 else "< 0.0001",
    }


def _mean_row(what: str, first: NDArray[np.float64], second: NDArray[np.float64]) -> Row:
    """How right each sample is, where a model has random outputs: shares of draws, compared by their means."""
    change = paired_means(first, second)
    return {
        "what": f"{what}, mean over draws",
        "first": str(Rate.mean(first)),
        "second": str(Rate.mean(second)),
        "difference": in_points(change),
        "p": f"{change.p:.2g}" if change.p >= 0.0001 else "< 0.0001",
    }


def _curves(first: AuditResult, second: AuditResult, names: tuple[str, str]) -> list[Section]:
    leading: dict[str, ThreatModel] = {}
    for threat in first.spec.threats:
        if any(threat.norm == other.norm for other in second.spec.threats):
            leading.setdefault(threat.norm, threat)
    alike = first.spec.goal == second.spec.goal
    blocks: list[AnyBlock] = [] if alike or not leading else [Text(text=_goals(first, second, names), tone="warning")]
    for threat in leading.values():
        title = f"Accuracy against {threat.norm.symbol} epsilon"
        rows = [tuple(curve_rows(audit, threat, name)) for audit, name in zip((first, second), names, strict=True)]
        withheld = [" (not established)" if audit.headline_withheld else "" for audit in (first, second)]
        parts = (
            [(f"{title}{max(withheld)}", rows[0] + rows[1])]
            if alike
            else [
                (f"{title}, {name}: {audit.goal}{doubt}", own)
                for name, audit, doubt, own in zip(names, (first, second), withheld, rows, strict=True)
            ]
        )
        blocks += [
            Figure(
                chart="lines",
                title=each,
                rows=points,
                options=curve_options(threat),
                reading="Share of each audit's samples that are classified correctly and fooled by no attack within that "
                "epsilon, with the 95 % Wilson interval.",
            )
            for each, points in parts
        ]
    return [Section(key="curves", title="Robust accuracy against epsilon", blocks=tuple(blocks))] if blocks else []


def _layers(first: AuditResult, second: AuditResult, names: tuple[str, str]) -> list[Section]:
    """The figures of the analyses that both audits ran with the same parameters."""
    sections = []
    alike = first.spec.goal == second.spec.goal  # else the twins that analyses look at are of different kinds
    own = sections_of(first.findings)
    for key, finding in keyed(first.findings).items():
        twin = next(
            (item for item in second.findings if (item.kind, item.settings) == (finding.kind, finding.settings)), None
        )
        if twin is None:
            continue
        pages = [own[key], section_of(twin)]
        figures = [_by_title(page) for page in pages]
        blocks = tuple(
            figure
            for title, one in figures[0].items()
            if title in figures[1]
            for figure in together(one, figures[1][title], names, overlay=alike)
        )
        if blocks:
            warned = () if alike else (Text(text=_goals(first, second, names), tone="warning"),)
            sections.append(Section(key=key, title=pages[0].title, blocks=(*warned, *blocks)))
    return sections


def _by_title(section: Section) -> dict[str, Figure]:
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    return dict(zip(apart(figure.title for figure in figures), figures, strict=True))


def together(one: Figure, other: Figure, names: tuple[str, str], *, overlay: bool = True) -> tuple[Figure, ...]:
    """Both figures in one, or one after the other where a chart shows a single model, on the same scale either way; without
    ``overlay``, for two that are not of the same thing, always one after the other and each on its own scale."""
    if not overlay:
        return tuple(
            figure.model_copy(update={"title": f"{figure.title} ({name})", "select": ""})
            for name, figure in zip(names, (one, other), strict=True)
        )
    if one.chart in OVERLAYING:
        return (_overlaid(one, other, names),)
    values = [row["value"] for figure in (one, other) for row in figure.rows if row.get("value") is not None]
    values += [figure.options[end] for figure in (one, other) for end in ("low", "high") if end in figure.options]
    scale = {"domain": domain_of(values, positive=bool(one.options.get("log")))} if values else {}
    return tuple(
        figure.model_copy(update={"title": f"{figure.title} ({name})", "options": scale | figure.options, "select": ""})
        for name, figure in zip(names, (one, other), strict=True)
    )


def _overlaid(one: Figure, other: Figure, names: tuple[str, str]) -> Figure:
    rows = tuple(row | {"model": name} for name, figure in zip(names, (one, other), strict=True) for row in figure.rows)
    reading = f"{one.reading} Both models on one scale; colours tell the models apart."
    return one.model_copy(
        update={"rows": rows, "options": one.options | {"group": "model"}, "reading": reading, "select": ""}
    )


def _settings(first: AuditResult, second: AuditResult, names: tuple[str, str]) -> Section:
    """Where the two audits were not the same; rows that agree are left out."""
    facts = [_facts(audit) for audit in (first, second)]
    rows = tuple(
        {"what": key, "first": facts[0].get(key), "second": facts[1].get(key)}
        for key in dict.fromkeys([*facts[0], *facts[1]])
        if facts[0].get(key) != facts[1].get(key)
    )
    titles = apart(("What", *names))
    columns = tuple(
        Column(key=key, title=title) for key, title in zip(("what", "first", "second"), titles, strict=True)
    )
    return Section(key="settings", title="Models and settings that differ", blocks=(Table(columns=columns, rows=rows),))


def _facts(audit: AuditResult) -> dict[str, str]:
    model, source = audit.provenance.model, audit.provenance
    facts = {
        "model": model.name,
        "weights": model.sha256,
        "architecture": str((model.architecture or {}).get("kind", "–")),
        "parameters": f"{model.parameters:,}".replace(",", " "),
        "normalization": str(model.normalization),
        "device": source.device,
        "torch": source.versions["torch"],
        "revision": source.revision,
        "doubts": "; ".join(flag.message for flag in audit.flags) or "none",
    }
    for name, value in audit.spec.model_dump(mode="json", exclude=None if audit.random else {"draws"}).items():
        facts[name.replace("_", " ")] = str(value)
    return facts
