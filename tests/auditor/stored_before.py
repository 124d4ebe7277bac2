"""What the results in ``stored/before`` are expected to show: what a reader sees, every number in full, and the report's text.

Each drawing has three files beside the results: ``NAME.page.txt`` (texts, cells and charts as a reader sees them),
``NAME.numbers.gz`` (every number of tables, measures and charts to its last bit, without a word) and ``NAME.report.gz`` (the text
of the HTML report). A change of wording alters the first and the last, and nothing may alter the second. After a wanted change:
``python -m tests.auditor.stored_before [NAME ...]``, and read the difference.

All names of the core's modules that this yardstick needs are imported here, once.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import vl_convert
from PIL import Image as Pillow

from auditor import ARCHITECTURES, AuditResult, Classifier, ImageDataset, Normalization, TrainingResult, render_report
from auditor.auditing.examples import Examples
from auditor.auditing.sample_browser import pictures
from auditor.data.intake.weights import load_weights
from auditor.defending.evaluation import DefenseEvaluation
from auditor.defending.playground import Play, from_bytes
from auditor.neural.analysis import Finding, detail_of, keyed
from auditor.neural.routes.critical import Critical
from auditor.neural.routes.route_map import (
    class_route,
    classes_in,
    image_route,
    route_figure,
    route_table,
    samples_in,
    stored_model_route,
)
from auditor.report.comparison import compare
from auditor.report.defense_evaluation import evaluation_sections, render_evaluation
from auditor.report.neuron_map import layer_blocks, measures_in, network_map, neuron_blocks
from auditor.report.neuron_map import measure_csv as neurons_csv
from auditor.report.playground import READINGS, playground_blocks
from auditor.report.section import document
from auditor.report.training import curves, outcome
from auditor.show.blocks import (
    AnyBlock,
    Figure,
    ImageRow,
    Images,
    Measures,
    Table,
    Text,
    show_interval,
    show_measure,
)
from auditor.show.charts import draw
from auditor.show.export import as_csv
from tests.narrow import typed

FOLDER = Path(__file__).parent / "stored" / "before"
NAMES = ("ant", "bee", "cat", "dog", "elk")
SHAPE = (3, 6, 6)
LAYERS = (
    "Conv2d(3, 8, 3, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2), Conv2d(8, 10, 3, padding=1), BatchNorm2d(10), "
    "ReLU(), Flatten(), Linear(90, 40), ReLU(), Linear(40, 5)"
)
ARCHITECTURE = ARCHITECTURES.build(
    "sequential", {"channels": 3, "height": 6, "width": 6, "num_classes": 5, "layers": LAYERS}
)
DETAILED = "every-analysis"
"""The audit of which the page also holds what opens behind the charts' marks."""
SHOWN = 6
"""Rows of a chart that the page lists, from the first to the last; the numbers hold them all."""
SENTENCE = 50
"""Letters of a text from which on it is a sentence, which may be said in another way."""

NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:[ ,]\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")


class Drawn(NamedTuple):
    """Lines of each."""

    page: list[str]
    numbers: list[str]
    report: list[str]


# -- reading ---------------------------------------------------------------------------------------------------------


def text_of(name: str) -> str:
    return gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()).decode()


@cache
def audit(name: str) -> AuditResult:
    return AuditResult.model_validate_json(text_of(f"audit-{name}"))


@cache
def training(name: str) -> TrainingResult:
    return TrainingResult.model_validate_json(text_of(f"training-{name}"))


@cache
def study(name: str) -> DefenseEvaluation:
    return DefenseEvaluation.model_validate_json(text_of(f"study-{name}"))


def play() -> Play:
    return from_bytes((FOLDER / "play-nip.safetensors").read_bytes())


def dataset(part: str = "test") -> ImageDataset:
    """The first 60 images are those of tests, the other 100 those of trainings."""
    with np.load(FOLDER / "data.npz") as arrays:
        chosen = slice(0, 60) if part == "test" else slice(60, 160)
        images, labels = arrays["images"][chosen], arrays["labels"][chosen]
    sha256 = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return ImageDataset(images, labels, NAMES, sha256=sha256, name=f"dots, {part}")


def classifier(weights: str = "parent.safetensors", name: str = "parent") -> Classifier:
    network = ARCHITECTURE.build()
    load_weights(network, FOLDER / weights)
    half = Normalization(mean=(0.5,), std=(0.5,))
    return Classifier(network, input_shape=SHAPE, num_classes=5, normalization=half, class_names=NAMES, name=name)


def examples() -> Examples:
    """The images that an audit kept of its PGD."""
    return Examples(audit("every-analysis"), 1, {file.name: file for file in FOLDER.glob("*.npy")})


# -- drawing ---------------------------------------------------------------------------------------------------------


class Pen:
    """Writes blocks down, what a reader sees on one side and the numbers on the other."""

    def __init__(self) -> None:
        self.page: list[str] = []
        self.numbers: list[str] = []

    def head(self, title: str) -> None:
        self.page += ["", f"== {title}"]
        self.numbers.append("==")

    def rate(self, what: str, *values: object) -> None:
        self.page.append(f"{what}: {' | '.join(map(_short, values))}")
        self._count("value", values)

    def blocks(self, blocks: Iterable[AnyBlock]) -> None:
        for block in blocks:
            match block:
                case Text():
                    self.page += [f"text ({block.tone})", *(f"  {line}" for line in block.text.splitlines())]
                case Measures():
                    self._measures(block)
                case Table():
                    self._table(block)
                case Figure():
                    self._figure(block)
                case Images():
                    self.page.append(f"images: {block.title} {block.reading}")
                    self.images(block.rows)

    def images(self, rows: Iterable[ImageRow]) -> None:
        for row in rows:
            self.page.append(f"  pictures: {row.title}")
            for image in row.images:
                self.page.append(f"    {image.caption} | {image.alt} | {_pixels(image.data)}")

    def _measures(self, block: Measures) -> None:
        for item in block.items:
            better = {True: "higher is better", False: "lower is better", None: "neither"}[item.higher_is_better]
            self.page.append(
                f"measure: {item.title} = {show_measure(item)} | {show_interval(item)} | {item.unit} | {better} | "
                f"{item.explanation}"
            )
            self._count("measure", (item.value, item.low, item.high, item.n))

    def _table(self, block: Table) -> None:
        self.page.append(f"table: {block.title}")
        self.page.append("  " + " | ".join(column.title for column in block.columns))
        self.page += ["  " + " | ".join(cells) for cells in block.cells()]
        self.page.append(f"  caption: {block.caption}")
        self.numbers.append(f"table {len(block.rows)} x {len(block.columns)}")
        for row in block.rows:
            self._count("row", [row.get(column.key) for column in block.columns])

    def _figure(self, block: Figure) -> None:
        self.page.append(f"figure: {block.title} ({block.chart}), {len(block.rows)} rows, select {block.select or '–'}")
        self.page.append(f"  options: {_fields(block.options)}")
        self.page += [f"  {_fields(row)}" for row in _some(block.rows)]
        self.page.append(f"  reading: {block.reading}")
        self.page.append(f"  as drawn {_chart(block)}, as a table {_digest(_rounded(as_csv(block)))}")
        self.numbers.append(f"figure {len(block.rows)} rows")
        for row in (block.options, *block.rows):
            self._count("row", [row[key] for key in sorted(row)])  # only the page tells in which order they come

    def _count(self, what: str, values: Iterable[object]) -> None:
        self.numbers.append(" ".join([what, *(number for value in values for number in _numbers(value))]))


def behind(finding: Finding, blocks: Iterable[AnyBlock], pen: Pen, path: tuple[str, ...] = ()) -> None:
    """What opens behind the first and the last mark of every figure, and the same behind those, one below the other."""
    for figure in (block for block in blocks if isinstance(block, Figure) and block.select):
        names = list(dict.fromkeys(str(row[figure.select]) for row in figure.rows))
        for name in dict.fromkeys((*names[:1], *names[-1:])):
            inner = detail_of(finding, (*path, name))
            pen.head(f"behind {' > '.join((*path, name))}")
            pen.blocks(inner)
            if not path:
                behind(finding, inner, pen, (*path, name))


def drawn_audit(name: str) -> Drawn:
    """The document with what opens behind its marks, what the result answers when asked, and the report."""
    result, pen = audit(name), Pen()
    findings = keyed(result.findings)
    for section in document(result):
        pen.head(f"{section.key}: {section.title}")
        pen.blocks(section.blocks)
        if section.key in findings and name == DETAILED:
            behind(findings[section.key], section.blocks, pen)
    pen.head("answers")
    pen.rate("goal", result.goal)
    pen.rate("clean accuracy", *_rate(result.clean_accuracy))
    for headline in result.headlines:
        pen.rate(
            f"headline {headline.threat}", headline.said, *_rate(headline.robust_accuracy), *_rate(headline.majority)
        )
        for threat, rate in result.curve(headline.threat):
            pen.rate(f"curve {threat}", threat.epsilon, *_rate(rate))
        pen.rate("robust", *result.robust(headline.threat).tolist())
        pen.rate("held", *result.held(headline.threat).tolist())
    for record in result.records:
        pen.rate(f"{record.attack.describe()}, {record.threat}", *_rate(result.attack_accuracy(record)))
    for corruption in result.corruptions:
        pen.rate(corruption.corruption.describe(), *result.corrupted_right(corruption).tolist())
    return Drawn(pen.page, pen.numbers, _html(lambda: render_report(result, title=name)))


def drawn_neurons(name: str) -> Drawn:
    """The page Neurons: the map by every measure, a layer and a neuron of each; and the critical routes."""
    result, pen = audit(name), Pen()
    measures = measures_in(result)
    for key, measure in measures.items():
        pen.head(f"map by {key}")
        pen.blocks([network_map(measure, collapse=False), network_map(measure, collapse=True)])
        last = measure.layers[-1]
        pen.blocks(layer_blocks(measure, last.name))
        every = [one for one in measures.values() if any(layer.name == last.name for layer in one.layers)]
        pen.blocks(neuron_blocks(every, last.name, 0))
        pen.page.append(f"every neuron's value {_digest(_rounded(neurons_csv(measure)))}")
        for layer in measure.layers:
            pen.numbers.append(
                " ".join(["layer", *map(_plain, layer.values.tolist()), *map(_plain, layer.marked.tolist())])
            )
    finding = next(item for item in result.findings if item.kind == "critical_route")
    found = typed(finding.data, Critical)
    label, sample = next(iter(classes_in(found))), samples_in(found)[0].id
    routes = {"model": stored_model_route(found), "class": class_route(found, label)}
    for title, route in {**routes, "image": image_route(found, sample)}.items():
        pen.head(f"critical route of the {title}")
        pen.blocks([route_figure(route, title), route_table(route)])
    pen.head("samples under PGD")
    pen.images(pictures(examples(), dataset(), np.arange(12)))
    return Drawn(pen.page, pen.numbers, [])


def drawn_comparison(first: str, second: str) -> Drawn:
    pen = Pen()
    for section in compare(audit(first), audit(second)):
        pen.head(f"{section.key}: {section.title}")
        pen.blocks(section.blocks)
    return Drawn(pen.page, pen.numbers, [])


def drawn_training(name: str) -> Drawn:
    result, pen = training(name), Pen()
    pen.head("outcome")
    pen.blocks(outcome(result))
    for ended in (True, False):
        pen.head("curves, ended" if ended else "curves, under way")
        pen.blocks(curves(result.points[: None if ended else 3], result.spec, ended=ended))
    return Drawn(pen.page, pen.numbers, [])


def drawn_study(name: str) -> Drawn:
    found, pen = study(name), Pen()
    for section in evaluation_sections(found):
        pen.head(f"{section.key}: {section.title}")
        pen.blocks(section.blocks)
    return Drawn(pen.page, pen.numbers, _html(lambda: render_evaluation(found, title=name)))


def drawn_play() -> Drawn:
    pen = Pen()
    for reading in READINGS:
        pen.head(f"influence on {reading}")
        pen.blocks(playground_blocks(play(), NAMES, reading))
    return Drawn(pen.page, pen.numbers, [])


AUDITS = ("every-analysis", "child", "three-norms", "targeted", "random", "nan", "withheld")
TRAININGS = ("pat", "sns")
STUDIES = ("nip", "row")
PAIRS = (("every-analysis", "child"), ("every-analysis", "targeted"), ("child", "withheld"), ("three-norms", "random"))

DRAWINGS: dict[str, Callable[[], Drawn]] = {
    **{f"audit-{name}": partial(drawn_audit, name) for name in AUDITS},
    **{f"neurons-{name}": partial(drawn_neurons, name) for name in ("every-analysis",)},
    **{f"compare-{a}-{b}": partial(drawn_comparison, a, b) for a, b in PAIRS},
    **{f"training-{name}": partial(drawn_training, name) for name in TRAININGS},
    **{f"study-{name}": partial(drawn_study, name) for name in STUDIES},
    "play-nip": drawn_play,
}


# -- values as text --------------------------------------------------------------------------------------------------


def _rate(rate: Any) -> tuple[object, ...]:
    """Of a withheld one what was measured nevertheless."""
    if rate is None:
        return (None,)
    measured = rate.measured() if hasattr(rate, "measured") else rate
    return (str(rate), measured.hits, measured.n, measured.value, measured.low, measured.high)


def _numbers(value: object) -> Iterator[str]:
    """Every number in a value, to its last bit; of a short text those that stand in it, while sentences are the page's."""
    if isinstance(value, str):
        yield from (
            match.replace(" ", "").replace(",", "") for match in NUMBER.findall(value) if len(value) <= SENTENCE
        )
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    else:
        yield _plain(value)


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return repr(float(value)).removesuffix(".0")


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        head = ", ".join(map(_short, value[:6]))
        return f"[{head}{', …' if len(value) > 6 else ''}]"
    if isinstance(value, dict):
        return f"{{{_fields(value)}}}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fields(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in values.items())


def _some(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    places = range(len(rows)) if len(rows) <= SHOWN else [i * (len(rows) - 1) // (SHOWN - 1) for i in range(SHOWN)]
    return [rows[place] for place in places]


def _rounded(text: str) -> str:
    """Its numbers to nine digits: the rest is what the numbers' own file is for."""
    return re.sub(r"-?\d+\.\d+(e[+-]?\d+)?", lambda match: f"{float(match[0]):.9g}", text)


def _chart(figure: Figure) -> str:
    """A digest of the whole chart as it goes to the browser."""
    return _digest(_rounded(json.dumps(draw(figure, width=760).to_dict(), sort_keys=True)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pixels(data: str) -> str:
    """A digest of the picture itself, whatever its encoder."""
    image = Pillow.open(io.BytesIO(base64.b64decode(data)))
    return f"{image.mode} {image.width}x{image.height} {hashlib.sha256(image.tobytes()).hexdigest()[:16]}"


class _Report(HTMLParser):
    """The text of a page by its elements, and what stands in place of its pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._style = tag == "style"
        given = dict(attributes)
        source = given.get("src") or ""
        kind, _, content = source.partition(";base64,")
        picture = "" if not source or kind.endswith("svg+xml") else _pixels(content)
        marks = [f"{name}={given[name]}" for name in ("class", "id", "href", "alt", "colspan", "open") if name in given]
        self.lines.append(" ".join(filter(None, [f"<{tag}>", *marks, kind, picture])))

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._style:
            self.lines.append(" ".join(data.split()))


@contextmanager
def _without_pictures() -> Iterator[None]:
    """Charts are compared as they are described; to paint them would depend on the machine's fonts, and take a minute."""
    with mock.patch.object(vl_convert, "vegalite_to_svg", return_value="<svg/>"):
        yield


def _html(render: Callable[[], str]) -> list[str]:
    with _without_pictures():
        return _Report(render()).lines


# -- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def one_thread() -> Iterator[None]:
    """As the results were made: another number of threads adds in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def probe() -> str:
    """How this machine rounds: sums, products and convolutions, whose last bits depend on the processor."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(77, 53)), random.normal(size=(53, 31))
    numbers = [a.sum(), a.mean(0).sum(), np.exp(a).sum(), (a @ b).sum(), np.log(np.abs(a)).mean(), a.std()]
    x = torch.from_numpy(random.normal(size=(16, 3, 6, 6)).astype(np.float32)).requires_grad_()
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 40)]
    for at, value in enumerate(value for layer in layers for value in layer.parameters()):
        value.data = torch.from_numpy(np.random.default_rng(at).normal(size=value.shape).astype(np.float32))
    out = torch.nn.Sequential(*layers)(x)
    torch.nn.functional.cross_entropy(out, torch.arange(16)).backward()
    assert x.grad is not None
    bits = np.array(numbers).tobytes() + out.detach().numpy().tobytes() + x.grad.numpy().tobytes()
    return hashlib.sha256(bits).hexdigest()


def expected(name: str) -> Drawn:
    page = (FOLDER / f"{name}.page.txt").read_text().splitlines()
    return Drawn(page, _unpacked(f"{name}.numbers.gz"), _unpacked(f"{name}.report.gz"))


def drawn(name: str) -> Drawn:
    """As files hold it: a text of several lines is as many."""
    return Drawn(*("\n".join(lines).splitlines() for lines in DRAWINGS[name]()))


def _unpacked(file: str) -> list[str]:
    path = FOLDER / file
    return gzip.decompress(path.read_bytes()).decode().splitlines() if path.exists() else []


def write(name: str) -> None:
    made = drawn(name)
    (FOLDER / f"{name}.page.txt").write_text("\n".join(made.page) + "\n")
    for part in ("numbers", "report"):
        lines = getattr(made, part)
        if lines:
            (FOLDER / f"{name}.{part}.gz").write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))


if __name__ == "__main__":
    for each in sys.argv[1:] or DRAWINGS:
        write(each)
