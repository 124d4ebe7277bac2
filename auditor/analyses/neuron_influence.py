"""Neuron influence before the head, on clean images and under each attack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from auditor.analysis import Analysis, Finding, NeuronMeasure, Pair, Subject, before_head
from auditor.attack import ATTACKS, Attack
from auditor.criterion import Misclassification
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.nip.change import PARTS, Reading, Value, change_of_influence
from auditor.nip.influence import Parts
from auditor.nip.totals import Influences, InfluenceTotals
from auditor.probes.head import Head, head_of
from auditor.report.blocks import AnyBlock, Column, Figure, Section, Table, Text
from auditor.twins.rows import picked, spread
from auditor.twins.stored import make_twins

READINGS: dict[Reading, str] = {"own": "each image's own class", "clean": "the clean image's class"}
READ: dict[Reading, str] = {
    "own": "Influence on a twin is on the class that the twin is taken for, as the paper defines it. Where that is another "
    "class, what speaks for the one tends to speak against the other: front falls and tail rises whichever neurons carry the "
    "attack.",
    "clean": "Influence on a twin is on the class of the clean image. Left of zero: the attack lowers what these neurons add "
    "to it.",
}
CONTROL = "random noise (control)"


class NeuronInfluence(Analysis):
    """What each neuron before the head adds to the confidence in a class, and how attacks change that (Chen et al. 2021, arXiv
    2112.13060).

    Neuron influence (eq. 2) is the derivative of the confidence by a neuron's output, times that output. The neurons of
    largest influence on a clean image are its front neurons, those of smallest its tail neurons. The paper holds that every
    attack lowers the front and raises the tail (its Fig. 1). Neurons that were picked for being extreme on one image are less
    extreme on any other, so the same is measured under random noise, and with the parts picked on the twin. And a twin that is
    taken for another class has its influence on another class: the change is measured on the class of the clean image, too.
    """

    title: ClassVar[str] = "Neuron influence"
    changes: ClassVar[tuple[str, ...]] = (
        "Front and tail went by index among neurons of equal influence: where many have none, an image and its twin share more "
        "of them than they should. Audit again for the right numbers.",
    )
    kind: Literal["neuron_influence"] = "neuron_influence"
    front: int = Field(5, ge=1, le=1000, description="Neurons of the largest influence that count as front.")
    tail: int = Field(5, ge=1, le=1000, description="Neurons of the smallest influence that count as tail.")
    explained: Reading = Field(
        "own",
        description="The class that influence on a twin is about: the one predicted on the twin itself, or on the clean image.",
    )
    value: Value = Field(
        "margin", description="Influence is shown on the log odds of the class, or on its softmax confidence."
    )
    only_success: bool = Field(
        False, description="Use only the images on which the attack succeeded; random noise keeps all."
    )
    images: int = Field(200, ge=2, le=100_000, description="Images to look at, at most, under each attack.")

    @property
    def cost(self) -> float:
        """Two passes, and the twins of an attack or two of some ten steps."""
        return 62.0

    def run(self, subject: Subject) -> Finding:
        head = head_of(subject.classifier)
        chosen = spread(len(subject.pairs), self.images)
        totals = InfluenceTotals(head.layer.in_features)
        data: dict[str, Any] = {
            "pairs": subject.pairs_from,
            "threat": str(subject.threat),
            "layer": f"the input of {head.name}",
        }
        makers = [attack for attack in subject.attacks if attack.single and not attack.control]
        left_out = [attack.display_title() for attack in subject.attacks if not attack.single]
        noise = ATTACKS.build("random-noise", {"draws": 2})
        if subject.threat.norm in noise.norms:
            makers.append(noise)
        changes = [self._change(subject, head, "twins of the audit", picked(subject.pairs, chosen), totals)]
        if totals.images == 0:
            raise EvaluationError(
                "Neuron influence has no image to look at: the attack succeeded on none.", "Set only_success to false."
            )
        for index, attack in enumerate(makers):
            ids = subject.ids[chosen]
            labels = torch.from_numpy(subject.dataset.labels[ids]).to(subject.classifier.device)

            def report(share: float, what: str, index: int = index) -> None:
                subject.on_progress((index + share) / len(makers), self.title)

            twins = make_twins(subject, attack, Misclassification(labels), ids=ids, on_progress=report)
            name = CONTROL if attack is noise else _name(attack, makers)
            changes.append(self._change(subject, head, name, twins, None))
        subject.on_progress(1.0, self.title)
        data |= {"attacks": changes, "left_out": left_out} | totals.as_data(self.front, self.tail)
        flags = _doubts(changes)
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=flags, revision=self.revision)

    def _change(
        self, subject: Subject, head: Head, name: str, pairs: Iterable[Pair], totals: InfluenceTotals | None
    ) -> dict[str, Any]:
        def see(reading: Reading, seen: Influences, clean: Parts, twin: Parts) -> None:
            if totals is not None and reading == self.explained:
                totals.add(seen, clean, twin)

        return {"name": name} | change_of_influence(
            subject.classifier, head, pairs,
            front=self.front, tail=self.tail, value=self.value,
            only_success=self.only_success and name != CONTROL, see=see,
        )  # fmt: skip

    def section(self, finding: Finding) -> Section:
        data = finding.data
        unit = "log odds" if self.value == "margin" else "confidence"
        about = "clean image" if self.explained == "clean" else "image itself"
        left_out = f" Left out, since they do not make one twin per image: {', '.join(data['left_out'])}."
        curve = [
            {"x": point["position"], "series": title, "value": point[key]}
            for key, title in (("clean", "clean images"), ("twin", "their twins"))
            for point in data["curve"]
        ]
        return Section(
            key=self.kind,
            title="Neuron influence before the head",
            blocks=(
                Text(
                    text=f"Influence of the {data['neurons']} neurons of {data['layer']} on the {unit} of a predicted class; "
                    f"{data['images']} images. Front: the {self.front} neurons of largest influence on the clean image, tail: "
                    f"the {self.tail} of smallest. Twins of the audit: {data['pairs']}. The attacks by name are untargeted, "
                    f"{data['threat']}.{left_out if data['left_out'] else ''}"
                ),
                *self._changes(data["attacks"], unit),
                Figure(
                    chart="lines",
                    title="Influence of the neurons, sorted on each clean image",
                    rows=tuple(curve),
                    options={
                        "x": "place in the order on the clean image (1: largest influence)",
                        "y": f"influence ({unit})",
                    },
                    reading=f"Influence on the class predicted on the {about}. Every image sorts the neurons; both lines "
                    "follow that order and average over the images. Where the twins' line lies below at the left and above at "
                    "the right, the attack took from neurons that speak for the class and gave to those that speak against it.",
                ),
                self._overlap(data["overlap"]),
                self._neurons(data),
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        columns = {key: np.array(values) for key, values in finding.data["by_neuron"].items()}
        unit = "log odds" if self.value == "margin" else "confidence"
        head = finding.data["layer"].removeprefix("the input of ")

        def measure(key: str, title: str, unit: str, values: NDArray[np.float64], reading: str) -> NeuronMeasure:
            often = np.argsort(-columns["front_clean"], kind="stable")[: self.front].tolist()
            marked_as = f"among the {self.front} most often front"
            return NeuronMeasure(key, title, unit, reading, marked_as, (before_head(head, values.tolist(), often),))

        clean, twin = columns["influence_clean"], columns["influence_twin"]
        return (
            measure("clean", "Influence, clean", unit, clean, "Large: it speaks for the class that is predicted."),
            measure(
                "change", "Influence, twin minus clean", unit, twin - clean,
                "Below 0: under attack it speaks less for the class, above 0: more.",
            ),
            measure(
                "front", "Front on clean images", "share of the images", columns["front_clean"],
                f"1: on every image it is one of the {self.front} neurons of largest influence.",
            ),
        )  # fmt: skip

    def _changes(self, attacks: list[dict[str, Any]], unit: str) -> tuple[AnyBlock, ...]:
        figures = tuple(
            Figure(
                chart="dots",
                title=f"Change of influence on {words}, under each attack",
                rows=tuple(
                    {"label": item["name"], "series": part} | item["change"][key][part]
                    for item in attacks
                    for part in PARTS
                ),
                options={"x": f"twin minus clean, mean of the part's neurons ({unit})"},
                reading=f"Each point is the mean over the images with its 95 % interval. {READ[key]} Random noise of the same "
                "size shows what comes of picking extreme neurons alone: an attack says something where it goes beyond that.",
            )
            for key, words in READINGS.items()
        )
        table = tuple(
            {
                "name": item["name"],
                "about": words,
                "n": item["change"][key]["front"]["n"],
                "fooled": item["fooled"]["value"],
            }
            | {share: item[share][key]["value"] for share in ("front_falls", "tail_rises")}
            | {f"{part}_twin": item["change_picked_on_twin"][key][part]["value"] for part in ("front", "tail")}
            for item in attacks
            for key, words in READINGS.items()
        )
        return (
            *figures,
            Table(
                title="Share of images, and the same with the parts picked on the twin",
                columns=(
                    Column(key="name", title="Twins"),
                    Column(key="about", title="Influence on"),
                    Column(key="n", title="Images"),
                    Column(key="fooled", title="Fooled", format=".1%"),
                    Column(key="front_falls", title="Front falls", format=".1%"),
                    Column(key="tail_rises", title="Tail rises", format=".1%"),
                    Column(key="front_twin", title="Change of the twin's front", format=".3g"),
                    Column(key="tail_twin", title="Change of the twin's tail", format=".3g"),
                ),
                rows=table,
                caption="The last two columns pick front and tail on the twin instead. If they show the same change with the "
                "opposite sign, the pattern owes to the picking, not to the attack.",
            ),
        )  # fmt: skip

    def _overlap(self, overlap: dict[str, Any]) -> Figure:
        rows = [
            {"label": part, "series": "clean and twin"} | overlap[part]["mean"]
            for part in ("front", "tail")
        ] + [
            {"label": part, "series": "random neurons", "value": overlap[part]["random"], "low": None, "high": None, "n": None}
            for part in ("front", "tail")
        ]  # fmt: skip
        return Figure(
            chart="dots",
            title="Neurons that are front, or tail, on an image and on its twin",
            rows=tuple(rows),
            options={"x": "share of the part that is the same", "format": ".0%"},
            reading="1 means that the attack left the set of neurons as it was; random neurons of the same number agree as often "
            "as the other point says.",
        )

    def _neurons(self, data: dict[str, Any]) -> Table:
        columns = data["by_neuron"]
        order = np.argsort(-np.array(columns["front_clean"]), kind="stable")[:20]
        return Table(
            title="Neurons that are most often front",
            columns=(
                Column(key="neuron", title="Neuron"),
                Column(key="front_clean", title="Front, clean", format=".1%"),
                Column(key="front_twin", title="Front, twin", format=".1%"),
                Column(key="tail_clean", title="Tail, clean", format=".1%"),
                Column(key="tail_twin", title="Tail, twin", format=".1%"),
                Column(key="influence_clean", title="Influence, clean", format=".3g"),
                Column(key="influence_twin", title="Influence, twin", format=".3g"),
            ),
            rows=tuple({"neuron": int(n)} | {key: values[n] for key, values in columns.items()} for n in order),
            caption=f"Share of the {data['images']} images; influence is the mean over them.",
        )


def _name(attack: Attack, others: list[Attack]) -> str:
    """The attack's title; where others share it, with the parameters in which they differ."""
    alike = [other.settings() for other in others if other.display_title() == attack.display_title()]
    differ = [
        f"{name} {value}" for name, value in attack.settings().items() if any(o.get(name) != value for o in alike)
    ]
    return f"{attack.display_title()} ({', '.join(differ)})" if differ else attack.display_title()


def _doubts(changes: list[dict[str, Any]]) -> tuple[Flag, ...]:
    audit = changes[0]
    if audit["fooled"]["hits"]:
        return ()
    return (
        Flag(
            name="nothing fooled",
            severity="warning",
            message="The change of neuron influence is that of images on which the attack failed.",
            evidence=f"No twin of {audit['fooled']['n']} is misclassified.",
            remedy="Take a larger epsilon or a stronger attack for the analyses.",
        ),
    )
