"""A defense evaluated: benign images, static adversarial images, and attacks on the defended model itself; one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import BUDGETS, Attack, Budget
from auditor.attacking.evaluation import CleanPass, clean_pass
from auditor.attacking.unanswered import without_answer
from auditor.defending.bench import AttackedSamples, Bench, row
from auditor.defending.cost import costs
from auditor.defending.defense import Defense, defended
from auditor.defending.flags import doubts
from auditor.defending.metrics import leading_in_common, mean_of_finite, psnr
from auditor.defending.nip.adaptive import InfluenceAttack
from auditor.defending.nip.pool import CandidateDefense
from auditor.defending.nip.published import label
from auditor.defending.spec import TableSpec
from auditor.defending.table import DefenseTable, Distances, Reproduction, RobustRow, StaticRow
from auditor.kit.errors import EvaluationError
from auditor.kit.progress import OnProgress, StagedProgress, no_progress
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import DefendedClassifier, FittedState
from auditor.models.drawing import View
from auditor.models.preflight import drawn, unrepeatable

LEADING = 5
"""Neurons that TKNC compares."""
PROBED = 16
"""Images on which it is found out whether the network itself has random outputs."""
SHOWN = 32
"""Images that the doubts about gradients look at."""


def measure_table(
    classifier: Classifier,
    defenses: Sequence[Defense],
    states: Sequence[FittedState],
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    spec: TableSpec,
    on_progress: OnProgress = no_progress,
) -> DefenseTable:
    """The whole table. Give it test images: whether the defenses were fitted on some of them is not known here, it is
    ``auditor.defending.evaluation`` that flags it.

    Raises EvaluationError if there is no defense, or no sample.
    """
    if not defenses or len(ids) == 0:
        raise EvaluationError(f"Expected a defense and samples, got {len(defenses)} and {len(ids)}.")
    few = dataset.images(ids[:PROBED]).to(classifier.device, classifier.dtype)
    classifier = drawn(classifier, few, spec.seed, spec.draws)
    model = cast(DefendedClassifier, defended(classifier, defenses, states, seed=spec.seed))
    progress = StagedProgress(on_progress)
    bench = Bench(dataset, ids, spec.threat, spec.seed, spec.batch_size, progress, spec.draws)
    run = _TableRun(classifier, model, bench, spec)
    tables = _Tables()
    jobs = run.jobs(tables)
    cost = costs(defenses, spec, classifier.num_classes)
    for name in jobs:
        progress.add(name, cost[name])
    for name, job in jobs.items():
        with progress.stage(name):
            job()
    images = bench.x[torch.from_numpy(run.answered)][:SHOWN].to(model.device, model.dtype)
    return DefenseTable(
        defenses=tuple(defenses), facts=tuple(dict(state.facts) for state in states), threat=spec.threat, seed=spec.seed,
        samples=ids.tolist(), benign_undefended=run.plain_right.accuracy, benign=run.right.accuracy,
        undefended=tuple(tables.undefended), static=tuple(tables.static), robust=tuple(tables.robust),
        reproductions=tuple(tables.reproductions), seconds_per_1000=1000 * run.seconds / len(ids),
        seconds_per_1000_undefended=1000 * run.plain_seconds / len(ids),
        flags=(
            *without_answer(dataset, ids, run.answered, run.seen[0].images),
            *unrepeatable(classifier, few),
            *doubts(model, images, tables.robust, tables.static, spec.draws),
        ),
    )  # fmt: skip


@dataclass
class _Tables:
    undefended: list[RobustRow] = field(default_factory=list)
    static: list[StaticRow] = field(default_factory=list)
    robust: list[RobustRow] = field(default_factory=list)
    reproductions: list[Reproduction] = field(default_factory=list)


@dataclass
class _TableRun:
    classifier: Classifier
    model: DefendedClassifier
    bench: Bench
    spec: TableSpec

    def __post_init__(self) -> None:
        self.plain_right, self.plain_seconds = self.bench.timed(self.classifier)
        self.right, self.seconds = self.bench.timed(self.model)
        self.found: dict[tuple[str, Budget], AttackedSamples] = {}

    @cached_property
    def seen(self) -> tuple[CleanPass, CleanPass]:
        """The network, alone and defended, on the clean images."""
        bench = self.bench
        alone, behind = (
            clean_pass(model, bench.dataset, bench.ids, batch_size=bench.batch_size, draws=1)
            for model in (self.classifier, self.model)
        )
        return alone, behind

    @property
    def answered(self) -> NDArray[np.bool_]:
        """For which samples both give finite logits."""
        return self.seen[0].answered & self.seen[1].answered

    def jobs(self, tables: _Tables) -> dict[str, Callable[[], None]]:
        """What is to be run, by name, in order; each adds to the tables."""
        spec, jobs = self.spec, dict[str, Callable[[], None]]()
        for attack in spec.static:
            for budget in BUDGETS:
                jobs[f"static {attack.describe()} {budget}"] = partial(self._static, tables, attack, budget)
        robust: dict[str, Callable[[], RobustRow]] = {}
        for attack in spec.white_box():
            jobs[f"undefended {attack.kind}"] = partial(_add, tables.undefended, partial(self._undefended, attack))
            robust[attack.kind] = partial(self._white_box, attack)
        for attack in spec.black_box():
            robust[attack.kind] = partial(self._black_box, attack)
        if isinstance(self.model.defense, CandidateDefense):
            robust |= self._candidate_jobs()
        robust |= {f"influence {item!r}": partial(self._influence, item) for item in spec.influence}
        return jobs | {name: partial(_add, tables.robust, job) for name, job in robust.items()}

    def _candidate_jobs(self) -> dict[str, Callable[[], RobustRow]]:
        first = self.spec.white_box()[0]
        jobs: dict[str, Callable[[], RobustRow]] = {
            f"saa {attack.describe()}": partial(self._secondary, attack) for attack in self.spec.static
        }
        if self.spec.nearest > 1:
            jobs["nearest"] = partial(self._white_box, first, self.spec.nearest)
            jobs["all nearest"] = partial(self._strict, first)
        return jobs

    def _view(self, nearest: int = 1, against: int | None = None) -> DefendedClassifier:
        return self.model.seen(View(adaptive=True, draws=self.spec.draws, nearest=nearest, against=against))

    def _attacked(self, view: DefendedClassifier, attack: Attack, positions: NDArray[np.int64]) -> AttackedSamples:
        """Through the defense. What fools the view fools the model, too, where nothing is random and the view is the model's own
        or asks that all its candidates be fooled."""
        sure = view.view.nearest == 1 or view.view.against is not None
        judge = None if sure and not self.model.random else self.model
        return self.bench.attacked(view, attack, positions, judge=judge)

    def _undefended(self, attack: Attack) -> RobustRow:
        found = self.bench.attacked(self.classifier, attack, np.flatnonzero(self.plain_right.ever))
        held = self.bench.held(self.classifier, self.plain_right, found)
        return row(attack.display_title(), "white box", self.plain_right, held, found)

    def _white_box(self, attack: Attack, nearest: int = 1) -> RobustRow:
        found = self._attacked(self._view(nearest), attack, np.flatnonzero(self.right.ever))
        how = "through the defense" if nearest == 1 else f"mean of {nearest} nearest candidates"
        name = f"{attack.display_title()}, {how}"
        return row(name, "white box", self.right, self.bench.held(self.model, self.right, found), found)

    def _black_box(self, attack: Attack) -> RobustRow:
        found = self.bench.attacked(self.model, attack, np.flatnonzero(self.right.ever))
        held = self.bench.held(self.model, self.right, found)
        return row(attack.display_title(), "black box", self.right, held, found)

    def _strict(self, attack: Attack) -> RobustRow:
        """All of the nearest candidates must be fooled: class by class, since what must be left depends on the label."""
        labels = self.bench.labels.numpy()
        parts = [
            self._attacked(
                self._view(self.spec.nearest, wanted), attack, np.flatnonzero(self.right.ever & (labels == wanted))
            )
            for wanted in sorted(set(labels[self.right.ever].tolist()))
        ] or [self.bench.attacked(self.model, attack, np.flatnonzero(self.right.ever))]
        images, seconds = torch.cat([part.x_adv for part in parts]), sum(part.seconds for part in parts)
        joined = (np.concatenate(item) for item in zip(*((p[0], *p[2:5]) for p in parts), strict=True))
        positions, distance, fooled, adversarial = joined
        found = AttackedSamples(positions, images, distance, fooled, adversarial, seconds)
        name = f"{attack.display_title()}, all of {self.spec.nearest} nearest candidates"
        return row(name, "white box", self.right, self.bench.held(self.model, self.right, found), found)

    def _static_found(self, attack: Attack, budget: Budget) -> AttackedSamples:
        key = (attack.describe(), budget)
        if key not in self.found:
            wanted = attack.model_copy(update={"budget": budget})
            self.found[key] = self.bench.static(self.classifier, wanted, np.flatnonzero(self.plain_right.ever))
        return self.found[key]

    def _static(self, tables: _Tables, attack: Attack, budget: Budget) -> None:
        """The defense success rate, the published levels on the same images, and, within epsilon, the accuracy under transfer."""
        found, bench = self._static_found(attack, budget), self.bench
        chosen = found.fooled if budget == "fixed" else found.adversarial
        positions, x_adv = found.positions[chosen], found.x_adv[torch.from_numpy(np.flatnonzero(chosen))]
        clean, got = bench.clean(positions), self._got(x_adv)
        tables.static.append(
            StaticRow(
                attack=attack, budget=budget, success=bench.judged(self.model, x_adv, positions).accuracy,
                distances=Distances.of(found.distance[chosen]), quality=mean_of_finite(psnr(got, clean)),
                quality_literal=mean_of_finite(psnr(got, clean, literal=True)),
                consistency=self._consistency(clean, got), consistency_undefended=self._consistency(clean, x_adv),
            )
        )  # fmt: skip
        for code in self.spec.published if len(clean) else ():
            restored = partial(code.restored, self.classifier, seed=self.spec.seed)
            hits = bench.by_batch(
                self.classifier, restored, clean, x_adv, torch.from_numpy(bench.ids[positions])
            ).numpy()
            tables.reproductions.append(
                Reproduction(name=label(code), attack=attack.describe(), budget=budget, success=Rate.of(hits))
            )
        if budget == "fixed":
            held = bench.held(self.model, self.right, found)
            name = f"{attack.display_title()} on the undefended model"
            tables.robust.append(row(name, "static", self.right, held, found))

    def _got(self, x: Tensor) -> Tensor:
        """What lies behind the first defense gets."""

        def changed(images: Tensor) -> Tensor:
            with torch.no_grad():
                return self.model.defense.changed(self.model.inner, images, self.model.passing(images)).float()

        return self.bench.by_batch(self.model, changed, x)

    def _consistency(self, x: Tensor, y: Tensor) -> float | None:
        try:
            compared = partial(leading_in_common, self.classifier, k=LEADING)
            return mean_of_finite(self.bench.by_batch(self.classifier, compared, x, y)) if len(x) else None
        except EvaluationError:  # no linear layer before the logits
            return None

    def _secondary(self, attack: Attack) -> RobustRow:
        """SAA: the defended adversarial image is attacked once more, on the undefended model, and defended again.

        The result lies within epsilon of the defended image, not of the clean one: it does not enter the headline.
        """
        first = self._static_found(attack, "fixed")
        second = self.bench.static(self.classifier, attack, first.positions, self._got(first.x_adv))
        held = self.bench.held(self.model, self.right, second, anywhere=True)
        return row(f"SAA by {attack.display_title()}", "influence", self.right, held, second, within=False)

    def _influence(self, attack: InfluenceAttack) -> RobustRow:
        positions, bench = np.flatnonzero(self.right.ever), self.bench
        began = time.perf_counter()

        def made(x: Tensor, labels: Tensor) -> Tensor:
            return attack.attack(self.classifier, x, labels, bench.threat.ball(x)).float()

        x_adv = bench.by_batch(self.classifier, made, bench.clean(positions), bench.labels[torch.from_numpy(positions)])
        seconds, everyone = time.perf_counter() - began, np.ones(len(positions), bool)
        found = AttackedSamples(positions, x_adv, bench.distance(x_adv, positions), everyone, everyone, seconds)
        held = bench.held(self.model, self.right, found, anywhere=attack.literal)
        name = f"{attack.kind.upper()}{', as printed' if attack.literal else ''}"
        return row(name, "influence", self.right, held, found, within=not attack.literal)


def _add(rows: list[RobustRow], job: Callable[[], RobustRow]) -> None:
    rows.append(job())
