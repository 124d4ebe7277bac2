"""train: the one training loop. What a method does in a batch is in ``auditor.hardening.hardenings``, what the loop needs in
``auditor.hardening.learning``."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.data.intake.upload import sha256_of
from auditor.hardening.hardening import Ground, Terms, TrainingStep
from auditor.hardening.learning import checkpoint
from auditor.hardening.learning.augmentation import Augmenter
from auditor.hardening.learning.averaging import ema_share
from auditor.hardening.learning.checkpoint import BEST, ComputeSite
from auditor.hardening.learning.doubts import doubts
from auditor.hardening.learning.passes import Passes
from auditor.hardening.learning.plan import TrainingPlan
from auditor.hardening.learning.ranks import Listener, run_together
from auditor.hardening.learning.schedule import factor
from auditor.hardening.learning.scratch import draw_anew
from auditor.hardening.learning.sensitive import Sensitivities, sensitivities
from auditor.hardening.learning.state import Checkpoints, Learner, TrainingState, fingerprint
from auditor.hardening.learning.team import Team, team_size
from auditor.hardening.learning.trainee import Trainee, before
from auditor.hardening.learning.validation import Validation, at_random, hold_out, selection_score, step_size, validate
from auditor.hardening.result import BestWeights, PassCount, TrainingPoint, TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.kit.device import pick_device, reproducible
from auditor.kit.errors import EvaluationError, TrainingError
from auditor.kit.foreign import flags_of, foreign, packages_of
from auditor.kit.progress import OnProgress, no_progress, part_of
from auditor.kit.provenance import provenance
from auditor.kit.randomness import derive_seed, seeded
from auditor.models.class_match import Matched, matched
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset

LOSS_POINTS = 200
"""Points of the loss curve between the ends of epochs, about, over the whole training."""

StopReason = Literal["finished", "patience", "cancelled", "diverged"]


class _Cancelled(Exception):
    """Someone asked for a stop while the network was validated."""


def train(
    spec: TrainingSpec,
    classifier: Classifier,
    dataset: ImageDataset,
    *,
    folder: Path,
    on_progress: OnProgress = no_progress,
    on_point: Callable[[TrainingPoint], None] = lambda point: None,
    stop: Callable[[], bool] = lambda: False,
    on_checkpoint: Callable[[int], None] = lambda step: None,
    checkpoint_seconds: float = 30.0,
) -> TrainingResult:
    """Train a copy of the classifier's network; the classifier itself is not touched.

    ``folder``, this training's own, holds the kept weights (``best.safetensors``, for ``load_weights`` into the architecture that
    ``spec.hardening.child`` names) and one checkpoint, written every ``checkpoint_seconds`` (less often if writing is
    slow; 0: after every step) and at the end of every epoch. If there is a checkpoint, the training resumes from it and
    ends with bit-identical weights; points that were reported before are reported again. ``stop`` is asked at every
    step, and ``on_checkpoint`` receives the steps done at each checkpoint. Validation images are drawn from ``dataset``
    by the seed and never trained on; give it no test images. Raises MismatchError if model, data or checkpoint do not
    fit, SpecError, and TrainingError when the loss or the logits are NaN or infinite; the error then holds the result
    so far. With several processes, a TrainingError also if one of them dies.
    """
    data = matched(classifier, dataset, spec.match)
    spec.check(dataset.shape)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.tidy(folder)
    device = pick_device(spec.device)
    start = classifier.with_network(copy.deepcopy(classifier.network))
    listener = Listener(on_progress, on_point, stop, on_checkpoint)
    size = team_size(spec, device)
    if size == 1:
        return _run(spec, start, data, folder, checkpoint_seconds, Team(device), listener)
    work = functools.partial(_run, spec, start.to("cpu"), data, folder, checkpoint_seconds)
    result: TrainingResult = run_together(work, size, device.type, listener, folder)
    return result


def _run(
    spec: TrainingSpec,
    start: Classifier,
    data: Matched,
    folder: Path,
    checkpoint_seconds: float,
    team: Team,
    listener: Listener,
) -> TrainingResult:
    """Train, as the whole team or one of it."""
    with reproducible(team.device):
        training = _Training(spec, start.to(team.device), data, folder, checkpoint_seconds, team, listener)
        return training.run()


class _Training:
    """One training under way; with several processes, in each of them. The leading one validates, saves and reports."""

    def __init__(
        self,
        spec: TrainingSpec,
        parent: Classifier,
        data: Matched,
        folder: Path,
        checkpoint_seconds: float,
        team: Team,
        listener: Listener,
    ) -> None:
        self.spec, self.folder = spec, folder
        dataset, self.match, self.classes = data
        self.dataset = dataset
        self.foreign = foreign(spec)
        self.team, self.listener, self.device = team, listener, team.device
        self.validation_ids, self.ids = hold_out(spec, dataset, team.size)
        self.plan = TrainingPlan.of(spec, len(self.ids), len(self.validation_ids), team.size)
        self.steps, self.per_epoch = self.plan.steps, self.plan.per_epoch
        self.digests = checkpoint.digest(parent.network.state_dict()), checkpoint.data_digest(dataset)
        self.trainee = self._trainee(parent)
        self.loss = team.together(self.trainee.network, spec.hardening.loss)
        self.start = self.trainee.snapshot()
        optimizer = torch.optim.SGD(
            self.trainee.parameters.values(), lr=spec.learning_rate, momentum=spec.momentum,
            weight_decay=spec.weight_decay, nesterov=spec.nesterov,
        )  # fmt: skip
        self.augmenter = Augmenter(spec.augmentation, len(self.ids), spec.seed)
        self.learner = Learner(self.trainee, optimizer)
        order = [str(dataset.order_of_classes)] if dataset.order_of_classes else []
        self.checkpoints = Checkpoints(
            folder,
            fingerprint(spec, *self.digests, *order),
            ComputeSite(self.device.type, team.size),
            checkpoint_seconds,
        )
        self._order: tuple[int, NDArray[np.int64]] = (-1, self.ids)

    @property
    def state(self) -> TrainingState:
        return self.learner.state

    def run(self) -> TrainingResult:
        """From the start or the last checkpoint to the end."""
        stopped: StopReason = "finished"
        try:
            if not self._resumed():
                self._begin()
            while self.state.step < self.steps:
                if why := self.team.told(self._why_stop):
                    stopped = why
                    break
                self._learn()
                if self.state.step % self.per_epoch == 0 or self.state.step == self.steps:
                    self._end_epoch()
                    self._save()
                elif self.checkpoints.due:
                    self._save()
        except _Cancelled:
            stopped = "cancelled"
        except (TrainingError, EvaluationError) as error:
            broken = TrainingError(error.message, error.hint)
            broken.result = self._result("diverged")
            raise broken from error
        return self._result(stopped)

    def _trainee(self, parent: Classifier) -> Trainee:
        """The network as the method wants it."""
        spec = self.spec
        with seeded(derive_seed(spec.seed, "weights"), self.device):
            network = spec.hardening.extended(parent).to(self.device)
            if spec.from_scratch:
                draw_anew(network)
        network.to(memory_format=torch.channels_last)
        first = spec.hardening.first_layer(parent.with_network(network))
        frozen = before(parent.with_network(network), first) if first else ()
        return Trainee(parent, network, frozen=frozen, batch_norm=spec.batch_norm, precision=spec.precision)

    def _begin(self) -> None:
        """Step 0: what the method prepares, and how the network does before it learns anything."""
        if self.team.leads:
            self._keep(self.trainee.snapshot(), BestWeights(epoch=0))
        self.learner.memory = self.team.told_tensors(lambda: self.spec.hardening.prepare(self._ground()))
        if self.team.leads:
            self._validate(self.trainee.snapshot())
        self._save()

    def _why_stop(self) -> StopReason | None:
        """Why not to go on."""
        if self._out_of_patience():
            return "patience"
        if self.listener.stop():
            self._save()
            return "cancelled"
        return None

    def _learn(self) -> None:
        """One step."""
        epoch, index = divmod(self.state.step, self.per_epoch)
        rows = self._rows(epoch)[index * self.plan.batch : (index + 1) * self.plan.batch]
        x, labels = self._batch(self.team.share(rows), epoch)
        learner, spec = self.learner, self.spec
        for group in learner.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        seed, before = self.team.seed(spec.seed), self.trainee.passes
        step = TrainingStep(
            self.trainee, self.start, x, labels, learner.memory, seed, self.state.step, spec.label_smoothing
        )
        with seeded(derive_seed(seed, "step", self.state.step), self.device):
            terms = self.loss(step)
        others, own = self.team.size - 1, self.trainee.passes
        self.trainee.count(others * (own.forwards - before.forwards), others * (own.backwards - before.backwards))
        self._add(terms)
        learner.optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()
        learner.optimizer.step()
        self.state.step += 1
        if spec.averaging == "ema" and self.team.leads:
            learner.average.update(self.trainee.network, ema_share(spec.ema_decay, learner.average.count))
        if self.state.step % max(1, self.steps // LOSS_POINTS) == 0 and self.state.step % self.per_epoch:
            self._report(self._point())
        self.listener.on_progress(self.plan.share(self.state.step), f"epoch {epoch + 1} of {self.plan.epochs}")

    def _batch(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented images and labels of these rows of the training set."""
        ids = self.ids[rows]
        x = self.augmenter(self.dataset.images(ids).to(self.device, self.trainee.classifier.dtype), rows, epoch)
        x = x.contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(self.dataset.labels[ids]).to(self.device)

    def _rows(self, epoch: int) -> NDArray[np.int64]:
        """The training set in the order of an epoch."""
        if self._order[0] != epoch:
            generator = np.random.default_rng(derive_seed(self.spec.seed, "epoch", epoch))
            self._order = epoch, generator.permutation(len(self.ids))
        return self._order[1]

    def _learning_rate(self) -> float:
        spec = self.spec
        done = min(self.state.step, self.steps - 1)
        return spec.learning_rate * factor(spec.schedule, done, self.steps, milestones=spec.milestones, drop=spec.drop)

    def _add(self, terms: Terms) -> None:
        """Count a step's loss; refuse a NaN or infinite one before any weight changes."""
        names = ["loss", *terms.parts]
        values = self.team.mean(torch.stack([terms.loss, *terms.parts.values()]).detach().double()).tolist()
        if not math.isfinite(values[0]):
            found = ", ".join(f"{name} {value:g}" for name, value in zip(names, values, strict=True))
            raise TrainingError(
                f"The loss became {'NaN' if math.isnan(values[0]) else 'infinite'} at step {self.state.step + 1} of {self.steps} "
                f"(epoch {self.state.step // self.per_epoch + 1}): {found}.",
                "Train again with a smaller learning rate or smaller weights for the parts of the loss. The best weights and the "
                "last good checkpoint are kept.",
            )
        for name, value in zip(names, values, strict=True):
            self.state.sums[name] = self.state.sums.get(name, 0.0) + value
        self.state.summed += 1

    def _end_epoch(self) -> None:
        """Average, validate, keep the weights if they are the best; renew what the method goes by."""
        if self.team.leads:
            self._judge()
        if self.state.step < self.steps:
            hardening, memory = self.spec.hardening, self.learner.memory
            self.learner.memory = self.team.told_tensors(lambda: hardening.renew(self._ground(), memory))

    def _judge(self) -> None:
        epoch = -(-self.state.step // self.per_epoch)
        average = self.learner.average
        if self.spec.averaging == "swa" and self.state.step >= self.spec.swa_start * self.steps:
            average.update(self.trainee.network, 1 / (average.count + 1))
        candidate = self.trainee.snapshot(average.state or None)
        validation = self._validate(candidate)
        best = BestWeights(epoch=epoch, clean=validation.clean, robust=validation.robust)
        kept, by = self.state.best, self.spec.select
        if kept.epoch == 0 or selection_score(best, by) > selection_score(kept, by):
            self._keep(candidate, best)

    def _validate(self, candidate: Classifier) -> Validation:
        """Measure, and report it as a point of the curves."""
        spec, ids, validated = self.spec, self.validation_ids, self.plan.validated
        threat = spec.threat
        seed = derive_seed(spec.seed, "validation") % 2**31
        found = validate(
            candidate, self.dataset, ids, threat, steps=spec.validation_steps,
            seed=seed, batch_size=self._at_once, on_progress=part_of(self._heard, 0, validated),
        )  # fmt: skip
        moved = Sensitivities([], Passes())
        if spec.sensitivity_samples:
            moved = sensitivities(
                candidate, self.dataset, ids[: spec.sensitivity_samples], threat,
                steps=spec.validation_steps, step_size=step_size(spec.validation_steps),
                seed=seed, batch_size=self._at_once, on_progress=part_of(self._heard, validated, 1),
            )  # fmt: skip
        self._heard(1, "done")
        for passes in (found.passes, moved.passes):
            self.state.validation = self.state.validation.plus(*passes)
        watched = spec.hardening.watched(self.learner.memory)
        means = {
            layer.name: float(layer.sensitivity.mean())
            for layer in moved.layers
            if (layer.name in watched if watched else layer.kind == "conv")
        }
        self._report(self._point(clean=found.clean, robust=found.robust, sensitivity=means))
        return found

    def _heard(self, share: float, what: str) -> None:
        """Progress of the pause between two epochs; it can be cancelled too."""
        if self.listener.stop():
            raise _Cancelled
        self.listener.on_progress(self.plan.share(self.state.step, share), f"validation: {what}")

    def _point(self, **measured: Any) -> TrainingPoint:
        """A point of the curves here, which takes up the losses since the last one."""
        state = self.state
        terms = {name: value / state.summed for name, value in state.sums.items()} if state.summed else {}
        state.sums, state.summed = {}, 0
        return TrainingPoint(
            step=state.step, epoch=state.step / self.per_epoch, learning_rate=self._learning_rate(), terms=terms, **measured
        )  # fmt: skip

    def _report(self, point: TrainingPoint) -> None:
        self.state.points.append(point)
        self.listener.on_point(point)

    def _out_of_patience(self) -> bool:
        epoch = self.state.step // self.per_epoch
        return self.spec.patience is not None and epoch - self.state.best.epoch >= self.spec.patience

    @property
    def _at_once(self) -> int:
        """Images that one process has room for."""
        return self.plan.batch // self.team.size

    def _ground(self) -> Ground:
        return Ground(
            self.trainee, self.dataset, self.ids, self.spec.seed, self._at_once,
            self.state.step // self.per_epoch, lambda share, what: self._heard(float(self.state.step > 0), what),
        )  # fmt: skip

    def _keep(self, candidate: Classifier, best: BestWeights) -> None:
        """These weights are the best so far."""
        self.state.best = best
        self.checkpoints.keep(candidate, best)

    def _save(self) -> None:
        """Write the checkpoint."""
        if not self.team.leads:
            return
        self.checkpoints.save(self.learner)
        self.listener.on_checkpoint(self.state.step)

    def _resumed(self) -> bool:
        """Whether there was a checkpoint to go on from."""
        if not self.team.told(lambda: self.checkpoints.found):
            return False
        self.checkpoints.resume(self.learner)
        for point in self.state.points:
            self.listener.on_point(point)
        return True

    def _result(self, stopped: StopReason) -> TrainingResult:
        state = self.state
        return TrainingResult(
            spec=self.spec,
            points=tuple(state.points),
            best=state.best,
            best_sha256=sha256_of(self.folder / BEST),
            steps=state.step,
            epochs=state.step / self.per_epoch,
            stopped=stopped,
            training=_counted(self.trainee.passes),
            validation=_counted(state.validation),
            training_samples=len(self.ids),
            validation_samples=len(self.validation_ids),
            parent_sha256=self.digests[0],
            data_sha256=self.digests[1],
            provenance=provenance(
                self.device,
                None,
                state.seconds + self.checkpoints.seconds,
                packages=packages_of(self.foreign),
                processes=self.team.size,
            ),
            classes=self.classes,
            notes=self.dataset.notes,
            flags=(
                *flags_of(self.foreign),
                *self.match,
                *self.spec.hardening.flags(self.start, self.learner.memory),
                *doubts(self.spec, state.points, state.best, stopped, self.start.num_classes),
                *at_random(self.start, self.dataset, self.validation_ids, self.spec.seed),
            ),
        )


def _counted(passes: Passes) -> PassCount:
    return PassCount(forwards=round(passes.forwards), backwards=round(passes.backwards))
