"""The page of the study of hardening methods: its results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.kit.statistics.estimate import Estimate

if TYPE_CHECKING:
    from benchmarks.hardening import Method, Results

VANILLA = "vanilla"
REFERENCE = "PAT"
COLLAPSED = 0.2
"""A network of ten classes with a lower clean accuracy answers nearly every image alike: what stands under attack is chance."""


def share(bits: str) -> float:
    return bits.count("1") / len(bits)


def bits(line: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    return np.array(list(line[name]), float)


def table(results: Results, methods: Mapping[str, Method]) -> str:
    """Markdown: a line per method, means over the seeds in percent."""
    lines = [
        "| method | seeds | clean | PGD-50 | AutoAttack | PGD-50 against PAT | sensitivity before → after | epochs, passes "
        "| papers: clean / PGD |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    reference = {line["seed"]: line for line in results.of(REFERENCE)}
    for name in (VANILLA, *methods):
        runs = results.of(name)
        if not runs:
            continue
        cells = [
            percent([bits(line, measure) for line in runs], Estimate.of_rate)
            for measure in ("clean", "pgd", "autoattack")
        ]
        apart = [bits(line, "pgd") - bits(reference[line["seed"]], "pgd") for line in runs if line["seed"] in reference]
        before = [line["sensitivity"] for line in runs if line["sensitivity"]]
        moved_to = " → ".join(f"{value:.3f}" for value in np.mean(before, axis=0)) if before else ""
        value = results.chosen(name)
        title = name if value is None else f"{name} (λ = {value:g})"
        title += ", collapsed" if all(share(line["clean"]) < COLLAPSED for line in runs) else ""
        epochs, passes = (float(np.mean([line[key] for line in runs])) for key in ("epochs", "passes"))
        against = percent(apart, Estimate.of_differences, "+.1f") if apart and name != REFERENCE else ""
        paper = methods[name].paper if name in methods else "Zhang: 91.1 / 0.1; Suri: 93.0 / 0.1"
        lines.append(
            f"| {title} | {len(runs)} | {' | '.join(cells)} | {against} | {moved_to} | {epochs:.2g}, {passes:.0f} | {paper} |"
        )
    return "\n".join(lines)


def percent(
    runs: Sequence[NDArray[np.float64]], interval: Callable[[NDArray[np.float64]], Estimate], form: str = ".1f"
) -> str:
    """Mean of some runs, each a number per image, in percent. From three runs on with Student's interval over them, else with
    that over the images, and every run's own mean."""
    means = [100 * float(run.mean()) for run in runs]
    many = len(runs) >= 3
    found = Estimate.of_mean(np.array(means) / 100) if many else interval(np.mean(runs, axis=0))
    value, low, high = (100 * number for number in (found.value, found.low, found.high) if number is not None)
    each = f" ({', '.join(format(mean, form) for mean in means)})" if len(means) == 2 else ""
    return f"{value:{form}} [{low:{form}}, {high:{form}}]{each}"


def tuning(results: Results, methods: Mapping[str, Method]) -> Iterator[str]:
    """How tuned parameters were chosen."""
    for name, method in methods.items():
        tried = results.tried(name)
        if method.values and tried:
            shown = ", ".join(
                f"{line['value']:g}: {100 * line['best']['clean']['value']:.1f} / {100 * line['best']['robust']['value']:.1f}"
                for line in tried
            )
            yield f"* {name} (after {method.share:g} of the budget): {shown}; chosen {results.chosen(name):g}"


def page(results: Results, methods: Mapping[str, Method], machine: str) -> str:
    """The study as Markdown."""
    s = results.settings
    about = (
        f"Machine: {machine}. VGG-16 (CIFAR form, batch normalization) at {s.width:g} of its width, CIFAR-10. Vanilla: "
        f"{s.vanilla_epochs} epochs on {s.vanilla_images} images, one-cycle, from new weights. Every method: from vanilla, on "
        f"{s.images} images, {s.budget:g} forward passes per image in all (a backward pass counts as two), SGD "
        f"with momentum, one cycle up to {s.learning_rate:g}, batches of {s.batch}, {s.precision}; training attacks: L∞ 8/255, "
        f"{s.attack_steps} steps; the kept epoch is that of the best robust validation (clean, where the training does not "
        f"attack). Test: PGD-50 on {s.test} images, "
        f"AutoAttack (standard) on {s.autoattack}, both in float32, L∞ 8/255. Means over the seeds in percent; from three "
        "seeds on Student's 95 % interval over them, with fewer that over the images (Wilson; Agresti and Min for differences) "
        "and every seed's own number. PGD-50 against PAT in points, on the same images and seeds. Sensitivity: mean of the last "
        "six convolutions. Passes: per image, with what a method needs to prepare itself."
    )
    grid = "How λ was chosen: clean / PGD-20 accuracy on 250 validation images of the first seed."
    return "\n".join([about, "", table(results, methods), "", grid, "", *tuning(results, methods), ""])
