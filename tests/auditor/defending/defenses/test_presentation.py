"""What a reader sees of an evaluated defense: the headline, the one table, the charts, and what stands apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from auditor.defending.comparing import attack_tests, sample_tests
from auditor.defending.defense import DEFENSES
from auditor.defending.evaluation import ControlResult, DefenseEvaluation, EvaluationSpec, SweepPoint, SweepResult
from auditor.defending.fit import FitSpec, fit
from auditor.defending.measuring import measure_table
from auditor.defending.nip.published import PublishedCode
from auditor.defending.spec import TableSpec
from auditor.defending.table import DefenseTable
from auditor.kit.flag import Flag
from auditor.kit.provenance import DatasetFacts, Provenance
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import paired_difference
from auditor.report.defense_beside import static_success, sweep_figure
from auditor.report.defense_evaluation import evaluation_sections, render_evaluation
from auditor.report.defense_table import table_sections
from auditor.show.blocks import Figure, Measures, Section, Table, Text, show_value
from auditor.show.charts import draw
from auditor.show.export import as_csv, as_svg
from tests.auditor.defending.defenses.test_measuring import QUICK
from tests.nets import deeper_classifier, labelled

NIP = {"front": 2, "tail": 2, "quorum": 0.8, "inputs": 20}
EVALUATION = TableSpec.model_validate(
    QUICK
    | {
        "threat": {"epsilon": 0.3},
        "static": [{"kind": "fgsm"}, {"kind": "pgd", "steps": 3}],
        "influence": [{"kind": "ala", "literal": True}, {"kind": "i-ala", "steps": 2}],
        "published": [PublishedCode(front=2, tail=2, size=0.05)],
    }
)


def turned(evaluation: DefenseTable, by: int) -> DefenseTable:
    """Another table of the same samples: so many of those that held hold no more."""
    rows = []
    for row in evaluation.robust:
        held = [one and index >= by for index, one in enumerate(row.held)]
        rows.append(row.model_copy(update={"held": held, "accuracy": Rate.of(np.array(held))}))
    static = tuple(
        row.model_copy(update={"success": Rate.count(max(0, row.success.hits - place % (by + 1)), row.success.n)})
        for place, row in enumerate(evaluation.static)
    )
    return evaluation.model_copy(update={"robust": tuple(rows), "static": static})


@pytest.fixture(scope="module")
def found() -> DefenseEvaluation:
    """A real table; what stands beside it is made of it, which takes no attacks."""
    classifier = deeper_classifier()
    data, fitted = (
        labelled(classifier, 60, wrong=6),
        FitSpec.load({"defenses": [{"kind": "nip", **NIP}], "samples": 60}),
    )
    states, lineage, *_ = fit(fitted, classifier, data)
    own = measure_table(classifier, fitted.defenses, states, data, np.arange(16), EVALUATION)
    beside = {name: turned(own, by) for by, name in enumerate(("Random direction", "Noise", "Random candidate"))}
    sweeps = {"k": (1.0, 2.0), "similarity": ("index", "member")}
    return DefenseEvaluation(
        spec=EvaluationSpec(evaluation=EVALUATION, samples=16), fitted=fitted, lineage=lineage,
        dataset=DatasetFacts(name=data.name, sha256=data.sha256, samples=60, shape=data.shape, class_names=None),
        weights="f" * 64, table=own, size=0.05,
        controls=tuple(ControlResult(title=name, table=item) for name, item in beside.items()),
        sample_tests=sample_tests(own, beside), attack_tests=attack_tests(own, beside),
        sweeps=tuple(
            SweepResult(
                parameter=name,
                points=tuple(SweepPoint(value=value, table=turned(own, by)) for by, value in enumerate(values)),
            )
            for name, values in sweeps.items()
        ),
        flags=(Flag(name="evaluated on fitted images", severity="warning", message="Seen before."),),
        provenance=Provenance(
            versions={"neuron-auditor": "1"}, revision="", device="CPU", started="2026-01-01T00:00:00+00:00", seconds=1.0
        ),
    )  # fmt: skip


def by_key(sections: list[Section]) -> dict[str, Section]:
    return {section.key: section for section in sections}


def blocks(section: Section, kind: type[Any]) -> list[Any]:
    return [block for block in section.blocks if isinstance(block, kind)]


def test_the_headline_is_the_lowest_row_and_marked_as_such(found: DefenseEvaluation) -> None:
    evaluation, sections = found.table, by_key(evaluation_sections(found))
    (measures,) = blocks(sections["verdict"], Measures)
    lowest = min(row.accuracy.value or 0 for row in evaluation.robust if row.within)
    assert measures.items[0].value == lowest
    assert evaluation.headline.name in measures.items[0].explanation
    (table,) = blocks(sections["table"], Table)
    (marked,) = [row for row in table.rows if row["role"] == "headline"]
    assert (marked["what"], marked["rate"]) == (evaluation.headline.name, str(evaluation.headline.accuracy))
    outside = {row["what"] for row in table.rows if row["role"] == "outside epsilon"}
    assert outside == {row.name for row in evaluation.robust if not row.within}
    assert outside


def test_the_one_table_has_every_row(found: DefenseEvaluation) -> None:
    evaluation = found.table
    (table,) = blocks(by_key(evaluation_sections(found))["table"], Table)
    rates = [row["rate"] for row in table.rows]
    assert rates == [
        str(evaluation.benign_undefended), str(evaluation.benign),
        *(str(row.accuracy) for row in evaluation.undefended), *(str(row.success) for row in evaluation.static),
        *(str(row.accuracy) for row in evaluation.robust),
    ]  # fmt: skip
    static = [row for row in table.rows if row["of"] == "share of the adversarial images"]
    assert [row["what"] for row in static] == [
        "FGSM, within L∞ ε = 0.3", "FGSM, closest image", "PGD, within L∞ ε = 0.3", "PGD, closest image",
    ]  # fmt: skip
    one = evaluation.static[2].distances
    assert static[2]["distance"] == f"{one.median:.3g} ({one.smallest:.3g}, {one.largest:.3g})"
    for row in table.rows:
        assert not {column.key for column in table.columns} - row.keys()


def test_the_gain_over_no_defense_is_paired(found: DefenseEvaluation) -> None:
    evaluation = found.table
    bare = min(evaluation.undefended, key=lambda row: row.accuracy.hits)
    gain = paired_difference(np.array(bare.held), np.array(evaluation.headline.held))
    texts = " ".join(block.text for block in blocks(by_key(evaluation_sections(found))["verdict"], Text))
    assert f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] points" in texts
    for flag in found.all_flags:
        assert flag.text in texts


def test_static_and_adaptive_stand_on_one_scale(found: DefenseEvaluation) -> None:
    evaluation = found.table
    (figure,) = blocks(by_key(evaluation_sections(found))["static-adaptive"], Figure)
    assert len({row["label"] for row in figure.rows}) == len(figure.rows), "one dot for each label"
    counted = [row["value"] for row in figure.rows if row["series"] == "static, as the paper counts"]
    assert counted == [row.success.value for row in evaluation.static]
    adaptive = [row for row in figure.rows if row["series"] == "adaptive, knows the defense"]
    white = [row.accuracy for row in evaluation.robust if row.knowledge == "white box"]
    assert [(row["value"], row["low"], row["high"], row["n"]) for row in adaptive] == [
        (rate.value, rate.low, rate.high, rate.n) for rate in white
    ]
    drawn = draw(figure).to_dict()
    scales = [
        layer["encoding"]["x"]["scale"]["domain"] for layer in drawn["layer"] if "scale" in layer["encoding"]["x"]
    ]
    assert scales == [[0, 1]] * 2
    assert not any("yOffset" in layer["encoding"] for layer in drawn["layer"])
    assert as_csv(figure).startswith("label,series,value,low,high,n\n")
    assert "<svg" in as_svg(figure)


def test_reproductions_stand_apart_and_are_marked(found: DefenseEvaluation) -> None:
    sections = by_key(evaluation_sections(found))
    (warning,) = blocks(sections["reproduction"], Text)
    assert (warning.tone, "These rows are not a defense" in warning.text) == ("warning", True)
    (table,) = blocks(sections["reproduction"], Table)
    assert [row["rate"] for row in table.rows] == [str(row.success) for row in found.table.reproductions]
    for key, section in sections.items():
        if key != "reproduction":
            named = [
                row.get("what", row.get("label", "")) for block in section.blocks for row in getattr(block, "rows", ())
            ]
            assert not any("published code" in str(name) for name in named), key
    without = found.table.model_copy(update={"reproductions": ()})
    assert "reproduction" not in by_key(table_sections(without))


def test_controls_and_both_kinds_of_tests_are_shown(found: DefenseEvaluation) -> None:
    section = by_key(evaluation_sections(found))["controls"]
    rates, samples, attacks = blocks(section, Table)
    assert [row["name"] for row in rates.rows] == ["NIP", *(item.title for item in found.controls)]
    assert len(rates.rows) == 4, "random direction, noise, a random candidate"
    assert [row["adjusted"] for row in samples.rows] == [test.adjusted for test in found.sample_tests]
    assert [row["p"] for row in attacks.rows] == [test.p for test in found.attack_tests]
    (figure,) = blocks(section, Figure)
    assert [row["value"] for row in figure.rows[2::3]] == [
        item.headline.accuracy.value for item in (found.table, *(one.table for one in found.controls))
    ]
    alone = by_key(evaluation_sections(found.model_copy(update={"controls": (), "attack_tests": ()})))["controls"]
    assert alone.title == "Compared with the undefended model"
    assert len(blocks(alone, Table)) == 1


def test_static_success_is_a_mean_with_no_interval_of_its_own(found: DefenseEvaluation) -> None:
    evaluation = found.table
    rates = [Rate.count(1, 4), Rate.count(3, 4), Rate.count(0, 0)]
    rows = [evaluation.static[0].model_copy(update={"success": rate}) for rate in rates]
    several = evaluation.model_copy(update={"static": tuple(rows)})
    assert static_success(several, "fixed") == 0.5, "the mean of 1/4 and 3/4; nothing was found by the third"
    assert static_success(several.model_copy(update={"static": tuple(rows[:1])}), "fixed") == rates[0]
    assert static_success(evaluation.model_copy(update={"static": ()}), "fixed") is None


def test_sweeps_are_charts_of_their_points(found: DefenseEvaluation) -> None:
    k, similarity = blocks(by_key(evaluation_sections(found))["sweeps"], Figure)
    assert k.chart == "lines"
    lowest = [(row["x"], row["value"]) for row in k.rows if row["series"] == "lowest robust accuracy"]
    expected = [(point.value, point.table.headline.accuracy.value) for point in found.sweeps[0].points]
    assert lowest == expected
    assert [x for x, _ in lowest] == [1, 2]
    assert similarity.chart == "dots"
    assert {row["label"] for row in similarity.rows} == {"index", "member"}
    layers = found.sweeps[1].model_copy(update={"parameter": "layer"})
    for figure in (k, similarity, sweep_figure(layers)):
        assert "<svg" in as_svg(figure)
    assert not [
        section for section in evaluation_sections(found.model_copy(update={"sweeps": ()})) if section.key == "sweeps"
    ]


def test_a_severe_doubt_withholds_the_headline(found: DefenseEvaluation) -> None:
    severe = Flag(name="no gradient for the adaptive attacker", severity="severe", message="It is blind.")
    doubted = found.table.model_copy(update={"flags": (severe,)})
    sections = by_key(table_sections(doubted))
    (measures,) = blocks(sections["verdict"], Measures)
    assert measures.items[0].value is None
    assert "not established" in measures.items[0].title
    (table,) = blocks(sections["table"], Table)
    assert not [row for row in table.rows if row["role"] == "headline"]
    bad = [block for block in blocks(sections["verdict"], Text) if block.tone == "bad"]
    assert [block.text for block in bad] == ["It is blind."]


def test_an_evaluation_without_adversarial_images_is_drawn_too(found: DefenseEvaluation) -> None:
    """Where no attack succeeds there is nothing to restore: a dash, not a number."""
    nothing = {"success": {"hits": 0, "n": 0, "value": None, "low": None, "high": None}, "quality": None}
    nothing |= {"quality_literal": None, "consistency": None, "consistency_undefended": None}
    nothing |= {"distances": {"smallest": None, "median": None, "largest": None}}
    plain = found.table.model_dump(mode="json")
    plain["static"] = [row | nothing for row in plain["static"]]
    empty = DefenseTable.model_validate(plain)
    sections = by_key(table_sections(empty))
    (measures,) = blocks(sections["verdict"], Measures)
    assert "Best static success" not in [item.title for item in measures.items]
    (table,) = blocks(sections["quality"], Table)
    assert {show_value(row["quality"], ".1f") for row in table.rows} == {"–"}
    (figure,) = blocks(sections["static-adaptive"], Figure)
    assert "<svg" in as_svg(figure)


def test_the_report_is_one_file_that_says_all_of_it(found: DefenseEvaluation) -> None:
    html = render_evaluation(found, title="NIP <b>here</b>")
    assert html.startswith("<!doctype html>")
    assert "<h1>Defense report: NIP &lt;b&gt;here&lt;/b&gt;</h1>" in html
    assert "<script" not in html
    assert "http://" not in html
    for section in evaluation_sections(found):
        assert f'<section id="{section.key}">' in html
    assert str(found.table.headline.accuracy) in html
    assert found.lineage.dataset_sha256 in html
    assert DEFENSES.build("nip", NIP).describe() in html
