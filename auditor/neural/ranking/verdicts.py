"""Verdicts on the rankings of a layer, drawn: a table, the differences to random neurons, and the accuracies behind them."""

from __future__ import annotations

from collections.abc import Iterator

from auditor.neural.found import table
from auditor.neural.ranking.evidence import WORDS, Accuracy, JudgedLayer
from auditor.show.blocks import AnyBlock, Column, Figure


def judged_layer_blocks(layer: JudgedLayer) -> Iterator[AnyBlock]:
    yield table(
        layer.rankings,
        "title",
        *(
            column
            for test, words in WORDS.items()
            for column in (
                Column(key=f"verdict.{test}", title=words.capitalize()),
                Column(key=f"p.{test}", title=f"p, {words}", format=".3f"),
            )
        ),
        title=f"Verdict on each ranking of the {layer.neurons} neurons of {layer.name}",
        caption="Better: more right answers on the twin, or fewer on the clean image, than with random neurons. Restored "
        "on the twin asks whether the neurons carry the failure. p: share of sets, the ranking's own and the random "
        f"ones ({layer.draws}), that do at least as well; one ranking in twenty gets 0.05 by chance.",
    )
    yield Figure(
        chart="dots",
        title=f"Difference to random neurons, {layer.name}",
        rows=tuple(
            {"label": ranking.title, "series": words} | ranking.difference[test].model_dump()
            for ranking in layer.rankings
            for test, words in WORDS.items()
        ),
        options={"x": "accuracy with the ranking's neurons minus with random ones", "format": ".0%"},
        reading="Paired over the images, mean of the numbers of neurons tried, with its 95 % interval over the images. "
        "Right of zero on the twin: the ranking's neurons carry more of the failure than random ones. Left of zero on "
        "the clean image: the network needs them more than random ones.",
    )
    yield Figure(
        chart="lines",
        title=f"Accuracy on the twins when neurons of {layer.name} are restored",
        rows=tuple(layer.curves("transplant")),
        options={"x": "neurons restored", "y": "accuracy on the twins", "format": ".1%"},
        reading="The band goes from the lowest to the highest of the random draws; a ranking that finds the "
        "neurons which carry the failure runs above it. The intervals of the rankings are in the table below.",
    )
    yield table(
        layer.accuracies(), *Accuracy.model_fields,
        title=f"Accuracies, {layer.name}",
        caption="In brackets: 95 % Wilson intervals.",
    )  # fmt: skip
