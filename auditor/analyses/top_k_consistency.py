"""Top-k neuron consistency and coverage of every layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Subject
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.neurons import LayerKind
from auditor.nip.influence import Slopes, chosen_mask, expected_jaccard, predicted_odds, shuffled_front, slopes
from auditor.randomness import RowRandom
from auditor.report.blocks import Column, Figure, Measure, Measures, Section, Table, Text
from auditor.statistics.means import Mean


class LayerConsistency(NamedTuple):
    """One layer of M neurons. ``consistency``: of each image, (N,). ``covered_clean``, ``covered_twin``: whether each neuron is
    among the top k of any image, bool (M,)."""

    name: str
    kind: LayerKind
    type: str
    consistency: NDArray[np.float64]
    covered_clean: NDArray[np.bool_]
    covered_twin: NDArray[np.bool_]


class TopKConsistency(Analysis):
    """Whether the k leading neurons of a layer stay the same under attack, TKNC (Chen et al. 2021, arXiv 2112.13060, eq. 13).

    Consistency is the number of neurons that lead on an image and on its twin, over the number that lead on either. The paper
    ranks by neuron influence on each image's own predicted class. Beside it stands top-k neuron coverage (Ma et al. 2018,
    arXiv 1803.07519), which shares the abbreviation: the share of a layer's neurons that ever lead, over all images.
    """

    title: ClassVar[str] = "Top-k neuron consistency"
    changes: ClassVar[tuple[str, ...]] = (
        "Which of several equal neurons lead went by index: where fewer than k neurons speak for the class, neurons without any "
        "influence counted as consistent. Audit again for the right numbers.",
    )
    kind: Literal["top_k_consistency"] = "top_k_consistency"
    k: int = Field(5, ge=1, le=1000, description="How many neurons of a layer lead.")
    by: Literal["influence", "activation"] = Field(
        "influence", description="Neurons lead by their influence on the predicted class, or by their mean output."
    )

    @property
    def cost(self) -> float:
        """A pass and its gradient, on the image and on its twin."""
        return 6.0

    def measure(self, subject: Subject) -> list[LayerConsistency]:
        """Every layer with more than k neurons, but not the logits, in the order of execution."""
        found: dict[str, list[LayerConsistency]] = {}
        done = 0
        for pair in subject.pairs:
            clean, twin = (
                self._leading(subject, images, pair.sample, side)
                for side, images in (("clean", pair.x), ("twin", pair.x_adv))
            )
            for name, (layer, first, lead) in clean.items():
                _, second, lead_twin = twin[name]
                either = (first | second).sum(1).double()
                share = ((first & second).sum(1).double() / either).cpu().numpy()
                covered = (mask.any(0).cpu().numpy() for mask in (lead, lead_twin))
                found.setdefault(name, []).append(LayerConsistency(name, layer.kind, layer.type, share, *covered))
            done += len(pair.sample)
            subject.on_progress(done / len(subject.pairs), self.title)
        if not found:
            raise EvaluationError(
                f"No layer before the logits has more than {self.k} neurons, so that all of them lead.", "Lower k."
            )
        return [_merged(parts) for parts in found.values()]

    def _leading(
        self, subject: Subject, images: Tensor, sample: NDArray[np.int64], side: str
    ) -> dict[str, tuple[Slopes, Tensor, Tensor]]:
        """Each layer by its name, with the leading neurons of each image, bool (B, M), twice: ties broken at random, to compare
        an image with its twin, and by the lower index, which no neuron joins the leading ones by chance."""
        classifier = subject.classifier
        x = images.to(classifier.dtype)
        leading = {}
        for layer in slopes(classifier, x, predicted_odds):
            values = layer.influence if self.by == "influence" else layer.output
            if values.shape[1] > self.k:
                order = values.sort(dim=1, descending=True, stable=True)
                by_index = chosen = order.indices[:, : self.k]
                if (order.values[:, self.k - 1] == order.values[:, self.k]).any():
                    random = RowRandom(subject.seed, f"ties {side} {layer.name}", [(int(item),) for item in sample])
                    chosen = shuffled_front(values, self.k, random)
                neurons = values.shape[1]
                leading[layer.name] = (layer, chosen_mask(chosen, neurons), chosen_mask(by_index, neurons))
        return leading

    def run(self, subject: Subject) -> Finding:
        layers = self.measure(subject)
        overall = np.mean([layer.consistency for layer in layers], axis=0)
        neurons = sum(len(layer.covered_clean) for layer in layers)
        rows = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "type": layer.type,
                "neurons": len(layer.covered_clean),
                "consistency": Mean.of(layer.consistency).model_dump(),
                "random": expected_jaccard(self.k, self.k, len(layer.covered_clean)),
                "covered_clean": int(layer.covered_clean.sum()),
                "covered_twin": int(layer.covered_twin.sum()),
            }
            for layer in layers
        ]
        return Finding(
            kind=self.kind,
            settings=self.settings(),
            data={
                "images": len(overall),
                "pairs": subject.pairs_from,
                "layers": rows,
                "overall": {
                    "consistency": Mean.of(overall).model_dump(),
                    "random": float(np.mean([row["random"] for row in rows])),
                    "neurons": neurons,
                    "covered_clean": int(sum(layer.covered_clean.sum() for layer in layers)),
                    "covered_twin": int(sum(layer.covered_twin.sum() for layer in layers)),
                },
            },
            flags=_doubts(rows),
            revision=self.revision,
        )

    def section(self, finding: Finding) -> Section:
        data, overall = finding.data, finding.data["overall"]
        led = "influence on the predicted class" if self.by == "influence" else "mean output"
        profile = tuple(
            {
                "layer": row["name"],
                "depth": depth,
                "kind": row["kind"],
                "neurons": row["neurons"],
                "consistency": row["consistency"]["value"],
                "random": row["random"],
                "covered_clean": row["covered_clean"] / row["neurons"],
                "covered_twin": row["covered_twin"] / row["neurons"],
            }
            for depth, row in enumerate(data["layers"], 1)
        )
        mean = overall["consistency"]
        return Section(
            key=self.kind,
            title="Leading neurons under attack",
            blocks=(
                Text(
                    text=f"The {self.k} neurons of each layer that lead by their {led}, on {data['images']} clean images and on "
                    f"their twins: {data['pairs']}. Layers of {self.k} neurons or fewer, and the logits, are left out."
                ),
                Measures(
                    items=(
                        Measure(
                            title="Consistency (TKNC), mean over the layers",
                            value=mean["value"], low=mean["low"], high=mean["high"], n=mean["n"], unit="%",
                            higher_is_better=True,
                            explanation=f"Share of the leading neurons that an image and its twin have in common; random sets of "
                            f"{self.k} neurons would have {100 * overall['random']:.1f} %.",
                        ),
                        *(
                            Measure(
                                title=f"Coverage by the {which}", unit="%",
                                value=overall[key] / overall["neurons"],
                                explanation=f"Share of the {overall['neurons']} neurons that lead on at least one image; it "
                                "grows with the number of images.",
                            )
                            for which, key in (("clean images", "covered_clean"), ("twins", "covered_twin"))
                        ),
                    )
                ),
                Figure(
                    chart="layer_lines",
                    title="Consistency of the leading neurons by layer",
                    rows=profile,
                    options={"fields": {"consistency": "image and twin", "random": "random neurons"}, "y": "|both| / |either|"},
                    reading="1: the same neurons lead on an image and on its twin; the lower points are what two random sets of "
                    "neurons would have in common. Where the line comes down to them, the attack has replaced the neurons "
                    "that decide.",
                ),
                Figure(
                    chart="layer_lines",
                    title="Coverage of the neurons by layer",
                    rows=profile,
                    options={
                        "fields": {"covered_clean": "clean images", "covered_twin": "twins"},
                        "y": "share of neurons that ever lead",
                    },
                    reading="A twin that makes neurons lead which no clean image made lead lifts its line above the other.",
                ),
                Table(
                    title="Layers, least consistent first",
                    columns=(
                        Column(key="name", title="Layer"),
                        Column(key="neurons", title="Neurons"),
                        Column(key="value", title="Consistency", format=".1%"),
                        Column(key="low", title="from", format=".1%"),
                        Column(key="high", title="to", format=".1%"),
                        Column(key="random", title="Random", format=".1%"),
                    ),
                    rows=tuple(
                        {"name": row["name"], "neurons": row["neurons"], "random": row["random"]} | row["consistency"]
                        for row in sorted(data["layers"], key=lambda row: row["consistency"]["value"])[:20]
                    ),
                    caption=f"95 % intervals of the mean over {data['images']} images.",
                ),
            ),
        )  # fmt: skip


def _merged(parts: list[LayerConsistency]) -> LayerConsistency:
    """The same layer on all batches."""
    return parts[0]._replace(
        consistency=np.concatenate([part.consistency for part in parts]),
        covered_clean=np.logical_or.reduce([part.covered_clean for part in parts]),
        covered_twin=np.logical_or.reduce([part.covered_twin for part in parts]),
    )


def _doubts(rows: list[dict[str, Any]]) -> tuple[Flag, ...]:
    """Layers where k is so large that any two sets share most of their neurons."""
    narrow = [row["name"] for row in rows if row["random"] > 0.5]
    if not narrow:
        return ()
    return (
        Flag(
            name="k close to the width",
            severity="info",
            message="In some layers random sets of leading neurons would be more than half the same.",
            evidence=f"{len(narrow)} of {len(rows)} layers, the first: {narrow[0]}.",
            remedy="Lower k, or read these layers only beside the random value.",
        ),
    )
