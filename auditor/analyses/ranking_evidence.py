"""Evidence for every ranking of neurons: what happens when its first neurons are silenced or restored, beside random ones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Subject
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.metrics import Rate
from auditor.probes.head import head_of
from auditor.ranking.ablation import Ablated, ablate_features, ablate_layer
from auditor.ranking.evidence import first_neurons, judge, random_order
from auditor.ranking.methods import alive, inner_layers, rank_features, rank_layers
from auditor.report.blocks import AnyBlock, Column, Figure, Section, Table, Text
from auditor.twins.rows import picked, spread

TESTS = {
    "transplant": "restored on the twin",
    "zero_twin": "silenced on the twin",
    "zero_clean": "silenced on the clean image",
}
"""The ablations, in the words of the report. "Better" is a higher accuracy on the twin, and a lower one on the clean image."""
FEW = 30
"""Below so many judging images the result says that they are few."""
CHEAPER = 10
"""So many times more random sets of the last features: each costs a matrix product, not a pass."""


class RankingEvidence(Analysis):
    """Whether the neurons that a ranking puts first matter more than random ones of the same number and layer.

    The pairs are split: every second one ranks the neurons, the others judge. On those, the first neurons of each ranking are
    set to zero, on the clean image and on its twin, and restored: set on the twin to what they are on the clean image, which
    asks whether these neurons carry the failure (Li et al. 2021 transplant features in this way). A ranking is better than
    random neurons if no more than 5 % of random sets do as well, counting the ranking itself among them (a permutation test),
    and the 95 % interval of the paired difference over the images leaves zero out. Random sets take dead neurons last.
    """

    title: ClassVar[str] = "Evidence for rankings"
    changes: ClassVar[tuple[str, ...]] = (
        "Random sets drew from all neurons, dead ones too, which made the control weaker where there are any. Audit "
        "again for the right numbers.",
    )
    kind: Literal["ranking_evidence"] = "ranking_evidence"
    top: float = Field(
        0.4,
        gt=0,
        le=0.9,
        description="Largest share of a layer's neurons to ablate; a 4th and a 16th of it are, too.",
    )
    draws: int = Field(
        20,
        ge=19,
        le=1000,
        description="Random sets of neurons of an inner layer, ten times as many of the last features; 19 can just reach 5 %.",
    )
    inner: int = Field(2, ge=0, le=50, description="Layers to look at beside the last features, spread over the depth.")
    images: int = Field(200, ge=4, le=100_000, description="Pairs to use, at most; half of them rank, half judge.")

    @property
    def cost(self) -> float:
        """Three passes for each set of neurons of an inner layer, on half of the pairs; the last features cost little."""
        return 8 + self.inner * 3 * 3 * (4 + self.draws) / 2

    def run(self, subject: Subject) -> Finding:
        chosen = np.flatnonzero(spread(len(subject.pairs), self.images))
        if len(chosen) < 2:
            raise EvaluationError("Evidence for rankings needs at least two pairs, one to rank and one to judge.")
        ranks, judges = (np.isin(np.arange(len(subject.pairs)), chosen[half::2]) for half in (0, 1))
        head = head_of(subject.classifier)
        inner = inner_layers(subject.classifier, head, self.inner)
        by_layer = {"": rank_features(subject.classifier, head, picked(subject.pairs, ranks))}
        by_layer |= rank_layers(subject.classifier, picked(subject.pairs, ranks), inner)
        layers = []
        for index, (name, rankings) in enumerate(by_layer.items()):
            subject.on_progress(index / len(by_layer), self.title)
            counts = self.counts(len(rankings[0].values))
            orders, living = [ranking.order for ranking in rankings], alive(rankings)
            draws = self.draws if name else CHEAPER * self.draws
            orders += [random_order(subject.seed, name, draw, living) for draw in range(draws)]
            right = self._ablated(subject, name, judges, first_neurons(orders, counts), (index, len(by_layer)))
            title = name or f"the input of {head.name}"
            about = {
                "name": title,
                "neurons": len(orders[0]),
                "counts": counts,
                "draws": draws,
                "dead": int((~living).sum()),
            }
            layers.append(about | judge(right, rankings, counts))
        clean, twin = self._plain(subject, judges)
        data = {
            "ranked_on": int(ranks.sum()),
            "judged_on": int(judges.sum()),
            "pairs": subject.pairs_from,
            "clean": Rate.of(clean).model_dump(),
            "twin": Rate.of(twin).model_dump(),
            "layers": layers,
        }
        return Finding(
            kind=self.kind, settings=self.settings(), data=data, flags=_doubts(clean, twin), revision=self.revision
        )

    def counts(self, neurons: int) -> list[int]:
        """How many neurons to ablate: at least one, ascending."""
        return sorted({max(1, int(neurons * share)) for share in (self.top / 16, self.top / 4, self.top)})

    def _ablated(
        self, subject: Subject, layer: str, judges: NDArray[np.bool_], sets: Tensor, place: tuple[int, int]
    ) -> dict[str, NDArray[np.bool_]]:
        """Each test on every judging pair: (N, S) for S sets of neurons. The empty name is the last features."""
        classifier, parts, done = subject.classifier, [], 0
        sets = sets.to(classifier.device)
        head = head_of(classifier)
        for pair in picked(subject.pairs, judges):
            x, x_adv = pair.x.to(classifier.dtype), pair.x_adv.to(classifier.dtype)
            parts.append(
                ablate_layer(classifier, layer, x, x_adv, pair.labels, sets)
                if layer
                else ablate_features(classifier, head, x, x_adv, pair.labels, sets)
            )
            done += len(pair.sample)
            subject.on_progress((place[0] + done / int(judges.sum())) / place[1], self.title)
        joined = Ablated(*(torch.cat(part) for part in zip(*parts, strict=True)))
        return {test: getattr(joined, test).cpu().numpy() for test in TESTS}

    def _plain(self, subject: Subject, judges: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the network is right on each judging pair, clean and twin."""
        classifier, right = subject.classifier, []
        for pair in picked(subject.pairs, judges):
            both = (classifier.logits(images.to(classifier.dtype)).argmax(1) for images in (pair.x, pair.x_adv))
            right.append([(answer == pair.labels).cpu().numpy() for answer in both])
        clean, twin = (np.concatenate(part) for part in zip(*right, strict=True))
        return clean, twin

    def section(self, finding: Finding) -> Section:
        data = finding.data
        opening = (
            f"Neurons ranked on {data['ranked_on']} pairs and judged on {data['judged_on']} others. Twins: {data['pairs']}. With "
            f"nothing ablated the network is right on {_show(data['clean'])} of the clean images and on "
            f"{_show(data['twin'])} of the twins. Silenced: output set to zero. Restored: set to its value on the "
            f"clean image. Random: sets of neurons of the same number and layer{_drawn(data)}."
        )
        blocks: list[AnyBlock] = [Text(text=opening)]
        for layer in data["layers"]:
            blocks += self._layer(layer)
        return Section(key=self.kind, title="Do rankings find the neurons that matter?", blocks=tuple(blocks))

    def _layer(self, layer: dict[str, Any]) -> tuple[AnyBlock, ...]:
        curves = [
            {"x": count, "series": ranking["title"], "value": rate["value"]}
            for ranking in layer["rankings"]
            for count, rate in zip(layer["counts"], ranking["accuracy"]["transplant"], strict=True)
        ] + [
            {"x": count, "series": "random neurons"} | spread
            for count, spread in zip(layer["counts"], layer["random"]["transplant"], strict=True)
        ]
        dots = tuple(
            {"label": ranking["title"], "series": words} | ranking["difference"][test]
            for ranking in layer["rankings"]
            for test, words in TESTS.items()
        )
        verdicts = tuple(
            {"title": ranking["title"]}
            | {f"{test}_verdict": ranking["verdict"][test] for test in TESTS}
            | {f"{test}_p": ranking["p"][test] for test in TESTS}
            for ranking in layer["rankings"]
        )
        accuracies = tuple(
            {"title": item["title"], "count": count}
            | {test: _show(item["accuracy"][test][place]) for test in TESTS}
            for item in layer["rankings"]
            for place, count in enumerate(layer["counts"])
        ) + tuple(
            {"title": "random neurons", "count": count}
            | {test: f"{100 * layer['random'][test][place]['value']:.1f} %" for test in TESTS}
            for place, count in enumerate(layer["counts"])
        )  # fmt: skip
        tests = [Column(key=test, title=f"Accuracy, {words}") for test, words in TESTS.items()]
        return (
            Table(
                title=f"Verdict on each ranking of the {layer['neurons']} neurons of {layer['name']}",
                columns=(
                    Column(key="title", title="Ranking"),
                    *(
                        column
                        for test, words in TESTS.items()
                        for column in (
                            Column(key=f"{test}_verdict", title=words.capitalize()),
                            Column(key=f"{test}_p", title=f"p, {words}", format=".3f"),
                        )
                    ),
                ),
                rows=verdicts,
                caption="Better: more right answers on the twin, or fewer on the clean image, than with random neurons. Restored "
                "on the twin asks whether the neurons carry the failure. p: share of sets, the ranking's own and the random "
                f"ones ({layer['draws']}), that do at least as well; one ranking in twenty gets 0.05 by chance.",
            ),
            Figure(
                chart="dots",
                title=f"Difference to random neurons, {layer['name']}",
                rows=dots,
                options={"x": "accuracy with the ranking's neurons minus with random ones", "format": ".0%"},
                reading="Paired over the images, mean of the numbers of neurons tried, with its 95 % interval over the images. "
                "Right of zero on the twin: the ranking's neurons carry more of the failure than random ones. Left of zero on "
                "the clean image: the network needs them more than random ones.",
            ),
            Figure(
                chart="lines",
                title=f"Accuracy on the twins when neurons of {layer['name']} are restored",
                rows=tuple(curves),
                options={"x": "neurons restored", "y": "accuracy on the twins", "format": ".1%"},
                reading="The band goes from the lowest to the highest of the random draws; a ranking that finds the "
                "neurons which carry the failure runs above it. The intervals of the rankings are in the table below.",
            ),
            Table(title=f"Accuracies, {layer['name']}", columns=(
                Column(key="title", title="Neurons"), Column(key="count", title="How many"), *tests,
            ), rows=accuracies, caption="In brackets: 95 % Wilson intervals."),
        )  # fmt: skip


def _drawn(data: dict[str, Any]) -> str:
    """What random sets are drawn from; findings made before dead neurons came last do not count them."""
    dead = [layer["dead"] for layer in data["layers"] if "dead" in layer]
    return f", of those that put out anything (dead: {', '.join(map(str, dead))})" if any(dead) else ""


def _show(rate: dict[str, Any]) -> str:
    return str(Rate.model_validate(rate))


def _doubts(clean: NDArray[np.bool_], twin: NDArray[np.bool_]) -> tuple[Flag, ...]:
    flags = []
    failures = int((clean & ~twin).sum())
    if failures == 0:
        flags.append(
            Flag(
                name="nothing to restore",
                severity="warning",
                message="The attack fooled none of the images that judge the rankings, so none can be shown to carry a failure.",
                evidence=f"{int(clean.sum())} of {len(clean)} images are right, and so are their twins.",
                remedy="Take a larger epsilon or a stronger attack for the analyses.",
            )
        )
    if len(clean) < FEW:
        flags.append(
            Flag(
                name="few images",
                severity="warning",
                message="Few images judge the rankings; only large differences can be seen.",
                evidence=f"{len(clean)} images.",
                remedy=f"Give the analyses at least {2 * FEW} samples.",
            )
        )
    return tuple(flags)
