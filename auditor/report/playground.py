"""One image of the playground as blocks: pictures, what is said of each, and the influence of front and tail neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from auditor.defending.playground import ADAPTIVE, ATTACKED, CLEAN, Play, Stage
from auditor.neural.influence.change import ExplainedClass
from auditor.show.blocks import AnyBlock, Column, Figure, ImageRow, Images, Table, Text
from auditor.show.pictures import picture

ENLARGED = 10
"""Factor by which a change is shown."""

READINGS: dict[ExplainedClass, str] = {
    "own": "the class that the network gives each image",
    "clean": "the clean image's class",
}


def playground_blocks(
    played: Play, names: Sequence[str] | None = None, reading: ExplainedClass = "own"
) -> list[AnyBlock]:
    """All of one play. ``names``: of the classes, where known."""
    return [
        Text(text=" ".join(_story(played, names)), tone=_tone(played)),
        pictures_of(played, names),
        _table(played, names, reading),
        *_neurons(played, reading),
    ]


def pictures_of(played: Play, names: Sequence[str] | None = None) -> Images:
    """Every stage, and below it its difference from the clean image, ten times enlarged around mid-grey."""
    clean = played.images[0]
    shown, changes = [], []
    for stage, image in zip(played.stages, played.images, strict=True):
        before = stage.name in (CLEAN, ATTACKED)
        said = f"{_said(stage.alone, names)} alone" if before else f"{_said(stage.behind, names)} behind the defense"
        shown.append(picture(image, f"{stage.name}: {said}", stage.name))
        change = 0.5 + ENLARGED * (image - clean)
        size = f"{played.spec.threat.norm.symbol} {stage.distance:.3g}"
        changes.append(picture(change, f"change × {ENLARGED}, {size}", f"change of {stage.name}"))
    rows = (
        ImageRow(title=f"Sample {played.sample}: {_name(played.label, names)}", images=tuple(shown)),
        ImageRow(title=f"What was changed, × {ENLARGED}", images=tuple(changes)),
    )
    reading = (
        f"{played.spec.attack.display_title()} within {played.spec.threat}, first on the network alone, then through the "
        "defense. Defended images are shown as the network receives them. Changes are relative to the clean image; "
        "grey means no change."
    )
    return Images(rows=rows, reading=reading)


def _story(played: Play, names: Sequence[str] | None) -> list[str]:
    """What happened, in sentences; the last says how it ended."""
    clean, attacked, adaptive = (_stage(played, name) for name in (CLEAN, ATTACKED, ADAPTIVE))
    right, kept, held = (_top(item) == played.label for item in (clean.behind, attacked.behind, adaptive.behind))
    alone = _top(clean.alone) == played.label
    said = [
        f"This is {_name(played.label, names)}. On the clean image, the network alone says {_said(clean.alone, names)}"
        f"{'' if alone else ', which is wrong without any attack'}, and behind the defense {_said(clean.behind, names)}"
        f"{'' if right or not alone else ': the defense spoils it'}."
    ]
    if not alone:
        said.append("It is not attacked: it is wrong without any attack.")
    elif _top(attacked.alone) == played.label:
        said.append("The attack on the network alone fails, so there is nothing to defend against.")
    else:
        said.append(
            f"Under attack, the network alone says {_said(attacked.alone, names)}; behind the defense, "
            f"{_said(attacked.behind, names)}: the static attack is {'undone' if kept else 'not undone'}."
        )
    if right:
        outcome = "and the defense holds here" if held else "and the defense is broken"
        said.append(f"An attacker who knows the defense gets {_said(adaptive.behind, names)}, {outcome}.")
    return said


def _tone(played: Play) -> Literal["good", "bad"]:
    return "good" if _top(_stage(played, ADAPTIVE).behind) == played.label else "bad"


def _table(played: Play, names: Sequence[str] | None, reading: ExplainedClass) -> Table:
    rows = []
    for stage in played.stages:
        row: dict[str, object] = {
            "stage": stage.name, "alone": _said(stage.alone, names), "behind": _said(stage.behind, names),
            "distance": stage.distance,
        }  # fmt: skip
        if stage.own:
            influence, order = np.array(getattr(stage, reading)), np.argsort(-np.array(stage.own), kind="stable")
            ends = {"front": order[: len(played.front)], "tail": order[len(order) - len(played.tail) :]}
            for part, now in ends.items():
                then = getattr(played, part)
                row[part] = float(influence[list(then)].mean()) if then else None
                row[f"{part}_kept"] = f"{len(set(then) & set(now.tolist()))} of {len(then)}"
        rows.append(row)
    columns = [
        Column(key="stage", title="Image"),
        Column(key="alone", title="The network alone says"),
        Column(key="behind", title="Behind the defense"),
        Column(key="distance", title=f"{played.spec.threat.norm.symbol} from clean", format=".3g"),
    ]
    if played.stages[0].own:
        columns += [
            Column(key="front", title="Influence, front", format="+.3g"),
            Column(key="front_kept", title="Still front"),
            Column(key="tail", title="Influence, tail", format="+.3g"),
            Column(key="tail_kept", title="Still tail"),
        ]
    caption = (
        "For a defended image, the first column is what the network says about the image that it receives, the second "
        "what the whole model says about the image before the defense. Where draws are averaged, or the defense works "
        "inside the network, the two differ. "
    )
    if played.stages[0].own:
        caption += (
            f"Influence: mean over the clean image's {len(played.front)} front and {len(played.tail)} tail neurons, on the "
            f"log odds of {READINGS[reading]}, in the network alone. Still front: how many of these are among the front neurons "
            "of this image."
        )
    else:
        caption += f"Neuron influence is not shown: {played.without}"
    return Table(title="Stage by stage", columns=tuple(columns), rows=tuple(rows), caption=caption)


def _neurons(played: Play, reading: ExplainedClass) -> list[Figure]:
    """The influence of each front and tail neuron of the clean image at every stage."""
    if not played.stages[0].own:
        return []
    rows = [
        {
            "label": f"{part} {neuron}", "series": stage.name, "value": getattr(stage, reading)[neuron],
            "low": None, "high": None, "n": None,
        }
        for part, neurons in (("front", played.front), ("tail", played.tail))
        for neuron in neurons
        for stage in played.stages
    ]  # fmt: skip
    where = f"layer {played.layer}" if played.layer else "the input of the last linear layer"
    figure = Figure(
        chart="dots",
        title="Influence of front and tail neurons",
        rows=tuple(rows),
        options={"x": "influence on the log odds", "height": max(160, 44 * len(rows) // len(played.stages))},
        reading=f"Neurons of {where} that add most to the class of the clean image (front) and least (tail), by their index, and "
        f"their influence on the log odds of {READINGS[reading]} at every stage (Chen et al. 2021, eq. 2). An attack moves them; "
        "a defense that works as NIP says moves them back.",
    )
    return [figure] if rows else []


def _stage(played: Play, name: str) -> Stage:
    return next(stage for stage in played.stages if stage.name == name)


def _top(shares: Sequence[float]) -> int:
    return int(np.argmax(shares))


def _name(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names is not None else f"class {label}"


def _said(shares: Sequence[float], names: Sequence[str] | None) -> str:
    """``Coat (97 %)``"""
    top = _top(shares)
    return f"{_name(top, names)} ({100 * shares[top]:.0f} %)"
