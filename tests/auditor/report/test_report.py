"""The report and the comparison: every number in them recomputed, nothing from outside, nothing that runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from auditor.auditing import audit
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.kit.errors import AuditorError, MismatchError, SpecError
from auditor.kit.statistics.paired import paired_difference
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analysis import keyed
from auditor.report import html
from auditor.report.comparison import compare, together
from auditor.report.neuron_map import measures_in
from auditor.report.section import document
from auditor.show.blocks import (
    Column,
    Figure,
    Measure,
    Measures,
    Table,
    Text,
    apart,
    show_interval,
    show_measure,
    show_value,
)
from auditor.show.charts import draw
from tests.narrow import known, sequence, typed
from tests.nets import SHAPE, Linear, labelled, small_classifier

SPEC = {
    "threats": [{"norm": "linf", "epsilon": "8/255"}], "samples": 40, "gallery": 4, "curve": [0.5, 2],
    "corruptions": [{"kind": "contrast"}, {"kind": "jpeg", "severity": 2}],
}  # fmt: skip
HOSTILE = '<script>alert("x")</script> & "quotes" ![i](http://evil.example/x.png)'


def audited(classifier: Classifier, data: ImageDataset) -> AuditResult:
    return audit.run(AuditSpec.load(SPEC), classifier, data, model_sha256="a" * 64)


@pytest.fixture(scope="module")
def result() -> AuditResult:
    classifier = small_classifier()
    data = labelled(classifier, n=60)
    classifier.name = HOSTILE
    data.class_names = classifier.class_names = tuple(f"{HOSTILE} {index}" for index in range(5))
    return audited(classifier, data)


@pytest.fixture(scope="module")
def page(result: AuditResult) -> str:
    return html.render(result)


class Outline(HTMLParser):
    """What a browser would load or run, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attributes if name in ("src", "href", "action", "data", "poster")
        ]
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_it_is_one_file_that_runs_and_loads_nothing(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "iframe", "object", "embed", "form", "link", "base"} & set(outline.tags)
    assert all(address.startswith(("data:image/", "#")) for address in outline.addresses)
    assert "default-src 'none'" in page
    assert len(page.encode()) < html.SIZE_LIMIT
    assert HOSTILE in " ".join(outline.words), "the name is shown as it was typed"


def test_it_answers_what_its_reader_asks(page: str, result: AuditResult) -> None:
    text = " ".join(" ".join(Outline(page).words).split())
    threat = result.spec.threats[0]
    robust, clean = result.robust_accuracy(threat), result.clean_accuracy
    for expected in (
        f"{100 * known(robust.value):.1f} %",
        f"95 % interval {100 * known(robust.low):.1f} to {100 * known(robust.high):.1f} %, n = 40",
        f"{100 * known(clean.value):.1f} %",
        "L∞ ε = 8/255",
        "untargeted (any wrong class)",
        "steps 10, step_size 0.25, random_start yes, restarts 1",
        "a" * 64,
        "d" * 64,
        "auditor audit run MODEL DATASET --spec spec.json",
        result.provenance.versions["torch"],
        "bounds the true robust accuracy from above",
    ):
        assert expected in text, expected


def test_the_spec_in_it_reproduces_the_audit(page: str, result: AuditResult) -> None:
    found = re.search(r"<pre>(.*?)</pre>", page, re.S)
    assert found is not None
    import html as escaping

    assert AuditSpec.load(escaping.unescape(found[1])) == result.spec


def test_the_attack_table_says_what_the_records_say(result: AuditResult) -> None:
    section = next(item for item in document(result) if item.key == "attacks")
    table = typed(section.blocks[1], Table)
    for row, record in zip(table.rows, result.headline_records(result.spec.threats[0]), strict=False):
        fooled = np.array(record.fooled)
        assert row["attacked"] == len(record.positions)
        assert row["success"] == str(record.success)
        assert row["distance"] == pytest.approx(np.median(np.array(record.distance)[fooled]))
        assert row["forwards"] == pytest.approx(np.mean(record.forwards))
    worst = table.rows[-1]
    assert worst["accuracy"] == str(result.robust_accuracy(result.spec.threats[0]))


def test_the_median_minimal_norm_is_the_distance_to_the_plane_in_closed_form() -> None:
    torch.manual_seed(0)
    weight = torch.randn(int(np.prod(SHAPE)))
    images = np.random.default_rng(0).integers(100, 156, (25, *SHAPE[1:], SHAPE[0]), dtype=np.uint8)
    data = ImageDataset(images, np.zeros(25, np.int64))
    sides = data.images(np.arange(25)).flatten(1) @ weight
    bias = -float(sides.mean())
    classifier = Classifier(Linear(weight, bias), input_shape=SHAPE, num_classes=2)
    data = ImageDataset(images, (sides + bias > 0).long().numpy())
    spec = {
        "threats": [{"norm": "l2", "epsilon": 0.01}], "curve": [], "curve_to_zero": False, "analyses": [], "checks": [],
        "attacks": [{"kind": "deepfool", "budget": "minimal"}, {"kind": "fgsm"}],
    }  # fmt: skip
    result = audit.run(AuditSpec.load(spec), classifier, data)
    table = typed(next(item for item in document(result) if item.key == "attacks").blocks[1], Table)
    exact = np.median((sides + bias).abs().numpy()) / np.linalg.norm(weight.numpy())
    assert table.rows[0]["minimal"] == pytest.approx(exact, rel=0.03)
    assert table.rows[0]["minimal"] > 0.01, "beyond epsilon: only the search for the closest image sees it"
    assert table.rows[1]["minimal"] is None


def test_a_withheld_headline_is_withheld_everywhere(result: AuditResult) -> None:
    from auditor.kit.flag import Flag

    doubted = result.model_copy(update={"flags": (Flag(name="x", severity="severe", message="It is all wrong."),)})
    page = html.render(doubted)
    verdict = next(item for item in document(doubted) if item.key == "verdict")
    shown = typed(verdict.blocks[0], Measures).items[1]
    assert (shown.value, "not established" in shown.title) == (None, True)
    assert "Robust accuracy is not established: It is all wrong." in page
    assert f"keeps the right class on at most {result.robust_accuracy(result.spec.threats[0])}" not in page


def test_a_report_that_grows_too_large_leaves_its_details_out_and_says_so(
    result: AuditResult, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "<details>" in page
    monkeypatch.setattr(html, "SIZE_LIMIT", len(page.encode()) - 1)
    smaller = html.render(result)
    assert "<details>" not in smaller
    assert "left out here" in smaller
    monkeypatch.setattr(html, "LARGEST", len(smaller.encode()) - 1)
    with pytest.raises(AuditorError, match="smaller gallery or fewer analyses"):
        html.render(result)


def test_an_analysis_that_ran_twice_keeps_its_runs_apart() -> None:
    """On the page, in the report and on the map: a click opens the run that it belongs to."""
    classifier = small_classifier()
    runs = [{"kind": "neuron_sensitivity", "top": share} for share in (0.1, 0.5)]
    spec = AuditSpec.load(SPEC | {"analyses": runs})
    twice = audit.run(spec, classifier, labelled(classifier))
    parts = [part for part in document(twice) if part.key.startswith("neuron_sensitivity")]
    assert [part.key for part in parts] == ["neuron_sensitivity", "neuron_sensitivity-2"]
    assert ["top=0.1" in parts[0].title, "top=0.5" in parts[1].title] == [True, True]
    assert [item.settings["top"] for item in keyed(twice.findings).values()] == [0.1, 0.5]
    marked = {key: len(one.layers[0].marked) for key, one in measures_in(twice).items() if key.endswith("sensitivity")}
    assert marked == {"neuron_sensitivity.sensitivity": 1, "neuron_sensitivity-2.sensitivity": 4}  # of 8 neurons
    assert [part.key for part in compare(twice, twice) if part.key.startswith("neuron")] == [part.key for part in parts]
    assert "top=0.5" in html.render(twice)


@pytest.mark.parametrize("name", ["layer_lines", "lines", "grid"])
def test_every_chart_of_an_audit_draws_its_rows(result: AuditResult, name: str) -> None:
    """Those that any audit has; the tests of the analyses draw theirs."""
    sections = [*document(result), *compare(result, result)]
    figures = [block for part in sections for block in part.blocks if isinstance(block, Figure) and block.chart == name]
    assert figures, f"nothing draws {name}"
    for figure in figures:
        assert draw(figure, width=400).to_dict()["layer"]
        assert figure.title
        assert figure.reading.endswith(".")


def test_numbers_are_shown_as_people_read_them() -> None:
    assert show_measure(Measure(title="", value=0.4567, unit="%")) == "45.7 %"
    assert show_measure(Measure(title="", value=None)) == "–"
    assert show_measure(Measure(title="", value=1234567.0)) == "1 234 567"
    interval = Measure(title="", value=0.5, low=0.401, high=0.599, n=100, unit="%")
    assert show_interval(interval) == "95 % interval 40.1 to 59.9 %, n = 100"
    correlation = Measure(title="", value=0.4281, low=0.3514, high=0.5048, n=10)
    assert show_interval(correlation) == "95 % interval 0.351 to 0.505, n = 10"
    assert [show_value(item) for item in (None, True, 12345, 0.00001234, "x")] == [
        "–",
        "yes",
        "12 345",
        "1.234e-05",
        "x",
    ]


# -- comparison ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other() -> AuditResult:
    """Another model on the same samples."""
    data = labelled(small_classifier(), n=60)
    second = small_classifier(seed=0)
    with np.errstate(all="ignore"):
        sequence(second)[0].weight.data *= 0.7
    second.name = "second"
    return audited(second, data)


def test_rates_are_compared_sample_by_sample(result: AuditResult, other: AuditResult) -> None:
    table = typed(compare(result, other)[0].blocks[-1], Table)
    threat = result.spec.threats[0]
    for row, (mine, theirs) in zip(
        table.rows,
        ((result.samples.correct, other.samples.correct), (result.robust(threat), other.robust(threat))),
        strict=True,
    ):
        expected = paired_difference(mine, theirs)
        assert row["difference"].startswith(f"{100 * (theirs.mean() - mine.mean()):+.1f}")
        assert (row["only_first"], row["only_second"]) == (expected.only_a, expected.only_b)
        assert row["only_first"] == int((mine & ~theirs).sum())


def test_only_common_samples_are_compared_and_it_says_so(result: AuditResult) -> None:
    classifier = small_classifier()
    fewer = audit.run(AuditSpec.load(SPEC | {"samples": 25}), classifier, labelled(classifier, n=60))
    section = compare(result, fewer)[0]
    assert "compared are the 25 that both used" in typed(section.blocks[0], Text).text
    common = np.isin(result.samples.ids, fewer.samples.ids)
    row = typed(section.blocks[-1], Table).rows[0]
    assert row["first"] == str(type(result.clean_accuracy).of(result.samples.correct[common]))


def test_other_data_or_no_common_sample_cannot_be_compared(result: AuditResult, other: AuditResult) -> None:
    facts = other.provenance.dataset.model_copy(update={"sha256": "e" * 64})
    elsewhere = other.model_copy(update={"provenance": other.provenance.model_copy(update={"dataset": facts})})
    with pytest.raises(MismatchError, match="different data"):
        compare(result, elsewhere)
    moved = other.samples.model_copy(update={"ids": [sample + 1000 for sample in other.samples.ids]})
    with pytest.raises(MismatchError, match="share no sample"):
        compare(result, other.model_copy(update={"samples": moved}))


def test_both_models_stand_on_one_scale(result: AuditResult, other: AuditResult) -> None:
    sections = {section.key: section for section in compare(result, other)}
    figure = typed(sections["neuron_sensitivity"].blocks[0], Figure)
    assert {row["model"] for row in figure.rows} == {result.provenance.model.name, "second"}
    curve = typed(sections["curves"].blocks[0], Figure)
    assert len({row["series"] for row in curve.rows}) == 2
    differing = {row["what"] for row in typed(sections["settings"].blocks[0], Table).rows}
    assert differing >= {"model"}
    assert "torch" not in differing, "what agrees is left out"


def test_a_chart_of_one_model_stands_twice_on_one_scale() -> None:
    """Bars of two models over each other would hide one of them."""
    bars = {
        name: Figure(
            chart="neuron_values",
            title="Neurons",
            rows=({"neuron": 0, "value": value, "marked": "no"},),
            options={"y": "size", "marked": "top"},
            select="neuron",
        )
        for name, value in (("plain", 2.0), ("robust", 5.0))
    }
    first, second = together(bars["plain"], bars["robust"], ("plain", "robust"))
    assert (first.title, second.title) == ("Neurons (plain)", "Neurons (robust)")
    assert first.options["domain"] == second.options["domain"] == [0, 5]
    assert [figure.rows for figure in (first, second)] == [figure.rows for figure in bars.values()]
    assert not first.select, "there is nothing to open"
    chance = {"y": "rho", "chance": 0.0, "low": -0.25, "high": 0.25}
    plain, robust = (figure.model_copy(update={"chart": "class_values", "options": chance}) for figure in bars.values())
    assert [figure.options["domain"] for figure in together(plain, robust, ("plain", "robust"))] == [[-0.25, 5]] * 2
    lines = bars["plain"].model_copy(update={"chart": "lines"})
    (one,) = together(lines, lines, ("plain", "robust"))
    assert [row["model"] for row in one.rows] == ["plain", "robust"]


def test_columns_that_look_alike_are_refused() -> None:
    columns = (Column(key="a", title="Random"), Column(key="b", title="Random"))
    with pytest.raises(ValueError, match=r"titles of a table's columns must differ, got \['Random', 'Random'\]"):
        Table(columns=columns, rows=())
    with pytest.raises(ValueError, match="keys of a table's columns must differ"):
        Table(columns=(columns[0], columns[0].model_copy(update={"title": "Other"})), rows=())
    assert apart(["A", "B", "A", "A (2)", "A"]) == ["A", "B", "A (2)", "A (2) (2)", "A (3)"]


def test_a_model_named_like_a_column_is_compared() -> None:
    classifier = small_classifier()
    data = labelled(classifier, n=30)
    classifier.name = "p (McNemar)"
    one = audited(classifier, data)
    classifier.name = "Only p (McNemar)"
    tables = [b for part in compare(one, audited(classifier, data)) for b in part.blocks if isinstance(b, Table)]
    assert [column.title for column in tables[0].columns] == [
        "Share of the same samples", "p (McNemar) (2)", "Only p (McNemar)", "Difference [95 %]",
        "Only p (McNemar) (2)", "Only Only p (McNemar)", "p (McNemar)",
    ]  # fmt: skip


def test_audits_of_unlike_goals_stand_on_no_common_axis() -> None:
    """One wrong class is harder to reach than any: the difference would be the goal's, not the model's."""
    classifier = small_classifier()
    classifier.name = "net"
    data = labelled(classifier, n=40)
    given = SPEC | {"corruptions": [], "samples": 30}
    untargeted, targeted = (
        audit.run(AuditSpec.load(given | {"goal": goal}), classifier, data, model_sha256="a" * 64)
        for goal in ({"kind": "untargeted"}, {"kind": "targeted", "rule": "next"})
    )
    sections = {part.key: part for part in compare(untargeted, targeted)}
    said = "The attacker's goal is untargeted (any wrong class) against net (first), and targeted (next) against"
    for key in ("differences", "curves", "neuron_sensitivity"):
        assert any(said in block.text for block in sections[key].blocks if isinstance(block, Text)), key
    table = next(block for block in sections["differences"].blocks if isinstance(block, Table))
    assert [row["what"] for row in table.rows] == ["clean accuracy"]
    curves = [block for block in sections["curves"].blocks if isinstance(block, Figure)]
    assert [{row["series"] for row in figure.rows} for figure in curves] == [
        {"net (first)"}, {"net (second)"},
    ]  # fmt: skip
    assert [figure.title.rsplit(": ")[-1] for figure in curves] == ["untargeted (any wrong class)", "targeted (next)"]
    layers = [block for block in sections["neuron_sensitivity"].blocks if isinstance(block, Figure)]
    assert layers
    assert all("group" not in block.options for block in layers)
    alike = {part.key: part for part in compare(untargeted, untargeted)}
    assert [{row["series"] for row in typed(block, Figure).rows} for block in alike["curves"].blocks] == [
        {"net (first)", "net (second)"}
    ]


def test_a_targeted_rate_says_its_goal() -> None:
    classifier = small_classifier()
    data = labelled(classifier, n=40)
    spec = SPEC | {"corruptions": [], "goal": {"kind": "targeted", "rule": "class", "target_class": 3}}
    found = audit.run(AuditSpec.load(spec), classifier, data, model_sha256="a" * 64)
    assert found.goal == "targeted (kind 3)"
    sections = {part.key: part for part in document(found)}
    verdict = sections["verdict"].blocks
    assert typed(verdict[0], Measures).items[1].title == "Robust accuracy, L∞ ε = 8/255, targeted (kind 3)"
    assert (
        "goal targeted (kind 3), the model classifies right, and the attacks do not drive to"
        in typed(verdict[1], Text).text
    )
    assert "takes it for the target class within the budget" in typed(sections["attacks"].blocks[0], Text).text


def test_classes_are_called_what_the_data_set_calls_them() -> None:
    """The model came without names; its numbers are the data set's."""
    classifier = small_classifier()
    data = labelled(classifier, n=40)
    assert classifier.class_names is None
    found = audited(classifier, data)
    assert classifier.class_names is None, "the caller's model is as it was"
    text = html.render(found)
    assert "kind 3" in text
    assert "class 3" not in text
    stored = found.model_dump(mode="json")
    stored["provenance"]["model"]["class_names"] = None  # as results were stored before
    assert AuditResult.model_validate(stored).provenance.model.class_name(3) == "kind 3"
    fewer = classifier.named(["one", "two"])
    assert [fewer.class_name(index) for index in range(5)] == ["one", "two", "class 2", "class 3", "class 4"]
    assert classifier.named([str(index) for index in range(6)]).class_names is None, "more names than classes"
    named = small_classifier()
    named.class_names = tuple("abcde")
    assert named.named(data.class_names) is named


def test_an_epsilon_in_levels_is_refused_with_what_was_meant() -> None:
    classifier = small_classifier()
    data = labelled(classifier, n=20)
    with pytest.raises(SpecError) as refused:
        audit.run(AuditSpec.load({"threats": [{"epsilon": 8}]}), classifier, data)
    assert refused.value.hint == "Did you mean 8/255?"
