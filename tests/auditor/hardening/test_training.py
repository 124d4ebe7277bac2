"""The loop beside a plain one; what stops it; what it keeps; what it refuses."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.data.intake.weights import load_weights
from auditor.data.samples import ARCHITECTURE, EPSILON, IMAGES, WEIGHTS
from auditor.hardening.hardening import HARDENINGS, Terms, TrainingStep
from auditor.hardening.hardenings.fine_tune import FineTune
from auditor.hardening.learning.checkpoint import ComputeSite
from auditor.hardening.learning.doubts import doubts
from auditor.hardening.result import BestWeights, TrainingPoint, TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from auditor.kit.errors import MismatchError, SpecError, TrainingError
from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import Rate
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from tests.narrow import known
from tests.nets import deeper_classifier, labelled

PLAIN: dict[str, Any] = {
    "hardening": {"kind": "fine_tune"},
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.05,
    "augmentation": "none",
    "validation_steps": 2,
    "device": "cpu",
}


def spec_of(**more: Any) -> TrainingSpec:
    return TrainingSpec.load(PLAIN | more)


def run(folder: Path, classifier: Classifier | None = None, n: int = 40, **more: Any) -> TrainingResult:
    classifier = classifier or deeper_classifier()
    keys = ("on_point", "on_progress", "stop", "checkpoint_seconds")
    arguments = {key: more.pop(key) for key in keys if key in more}
    return train(spec_of(**more), classifier, data_of(n), folder=folder, **arguments)


def data_of(n: int) -> ImageDataset:
    """Images that were never stored, so that nothing but themselves tells them apart."""
    data = labelled(deeper_classifier(), n=n)
    return ImageDataset(data._images, data.labels, data.class_names)


def kept(folder: Path, name: str = "best") -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / f"{name}.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def last(folder: Path, part: str = "network") -> dict[str, Tensor]:
    found = kept(folder, "last").items()
    return {name.removeprefix(f"{part}/"): value for name, value in found if name.startswith(f"{part}/")}


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_the_loop_is_a_plain_one(momentum: float, nesterov: bool, tmp_path: Path) -> None:
    """Cosine schedule, weight decay, momentum: written out, with the same split and order."""
    result = run(
        tmp_path, schedule="cosine", weight_decay=0.01, momentum=momentum, nesterov=nesterov, select="last", seed=5
    )
    classifier = deeper_classifier()
    network: Any = classifier.network.requires_grad_(True)
    data = labelled(deeper_classifier(), n=40)
    order = data.order(5)
    ids = np.sort(order[4:])  # a tenth is for validation
    moved = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    steps = 3 * 4  # three epochs of four batches of eight; four images are left over each time
    for step in range(steps):
        rows = np.random.default_rng(derive_seed(5, "epoch", step // 4)).permutation(36)[step % 4 * 8 :][:8]
        network.train()
        loss = cross_entropy(network((data.images(ids[rows]) - 0.5) / 0.5), torch.from_numpy(data.labels[ids[rows]]))
        network.zero_grad()
        loss.backward()
        rate = 0.05 * (1 + np.cos(np.pi * step / steps)) / 2
        with torch.no_grad():
            for name, value in network.named_parameters():
                slope = value.grad + 0.01 * value
                moved[name] = momentum * moved[name] + slope
                value -= rate * (slope + momentum * moved[name] if nesterov else moved[name])
    expected = network.state_dict()
    for name, value in kept(tmp_path).items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6), name
    assert (result.steps, result.epochs, result.best.epoch) == (12, 3.0, 3)
    assert (result.training.forwards, result.training.backwards) == (96, 96)
    assert (result.training_samples, result.validation_samples) == (36, 4)


def test_classes_matched_by_hand_train_as_the_right_labels_do(tmp_path: Path) -> None:
    data = data_of(40)
    turned = ImageDataset(data._images, (data.labels + 1) % 5, data.class_names)
    match: dict[str, int | None] = {f"kind {(label + 1) % 5}": label for label in range(5)}
    run(tmp_path / "right", epochs=1)
    found = train(spec_of(epochs=1, match=match), deeper_classifier(), turned, folder=tmp_path / "turned")
    same(kept(tmp_path / "turned"), kept(tmp_path / "right"))
    used = np.unique(data.labels).tolist()
    assert known(found.classes).describe() == f"by hand, {len(used)} of {len(used)} classes edited"
    spec = spec_of(epochs=1, match=match | {f"kind {(used[0] + 1) % 5}": None})
    fewer = train(spec, deeper_classifier(), turned, folder=tmp_path / "fewer")
    assert fewer.training_samples + fewer.validation_samples == 40 - (data.labels == used[0]).sum()
    assert TrainingResult.load(fewer.model_dump_json()) == fewer


def test_validation_images_are_never_trained_on_and_follow_the_seed(tmp_path: Path) -> None:
    class Seen(ImageDataset):
        asked: list[int]

        def images(self, ids: Any) -> Tensor:
            self.asked += np.asarray(ids).tolist()
            return super().images(ids)

    held = []
    for seed in (0, 1):
        data = labelled(deeper_classifier(), n=40)
        seen = Seen(data._images, data.labels, data.class_names, sha256="d")
        seen.asked = []
        points: list[TrainingPoint] = []
        spec = spec_of(seed=seed, validation_share=0.25, sensitivity_samples=0)
        # Ten are validated at the start, some of which are first asked whether the network answers at random; then 8 at a
        # time are trained on.
        train(spec, deeper_classifier(), seen, folder=tmp_path / str(seed), on_point=points.append)
        validation = set(seen.order(seed)[:10].tolist())
        first = next(place for place, sample in enumerate(seen.asked) if sample not in validation)
        assert set(seen.asked[:first]) == validation
        counts = {sample: seen.asked.count(sample) for sample in range(40)}
        # Each of four validations looks once for the clean pass and once for the attack on those that are right; some images
        # are also asked about randomness, at the start once more, and by the attack before it takes a copy.
        assert all(counts[sample] in range(4, 4 * 4 + 2) for sample in validation)
        trained = [sample for sample in seen.asked if sample not in validation]
        assert len(trained) == 3 * 3 * 8
        held.append(validation)
    assert held[0] != held[1]


def test_the_best_epoch_is_kept_and_the_last_where_that_is_wanted(tmp_path: Path) -> None:
    results = {}
    for select in ("robust", "clean", "last"):
        results[select] = run(tmp_path / select, select=select, learning_rate=0.5, epochs=6)
        points = [point for point in results[select].points if point.clean is not None and point.step]
        score = {
            "robust": lambda point: (point.robust.hits, point.clean.hits),
            "clean": lambda point: (point.clean.hits, point.robust.hits),
            "last": lambda point: point.step,
        }[select]
        best = max(points, key=score)
        assert results[select].best.epoch == best.step // 4
        assert (results[select].best.clean, results[select].best.robust) == (best.clean, best.robust)
    network = deeper_classifier().network
    load_weights(network, tmp_path / "last" / "best.safetensors")
    same(network.state_dict(), last(tmp_path / "last"))


def test_patience_ends_a_training_that_does_not_get_better(tmp_path: Path) -> None:
    result = run(tmp_path, learning_rate=1e-12, epochs=50, patience=3)
    assert result.stopped == "patience"
    assert result.best.epoch == 1, "equal ones: the earlier"
    assert result.epochs == 4
    again = run(tmp_path, learning_rate=1e-12, epochs=50, patience=3)
    assert again.model_dump(exclude={"provenance": {"seconds"}}) == result.model_dump(
        exclude={"provenance": {"seconds"}}
    )


def test_cancelling_keeps_the_best_so_far_and_can_be_taken_up(tmp_path: Path) -> None:
    asked = count()
    none = run(tmp_path / "none", stop=lambda: True)
    assert (none.stopped, none.best.epoch, none.steps) == ("cancelled", 0, 0)
    assert all(
        torch.equal(value, deeper_classifier().network.state_dict()[name])
        for name, value in kept(tmp_path / "none").items()
    )
    part = run(tmp_path / "part", stop=lambda: next(asked) > 12, sensitivity_samples=0)
    assert part.stopped == "cancelled"
    assert 0 < part.steps < 12
    assert part.best.epoch == int(part.epochs) >= 1
    whole = run(tmp_path / "part", sensitivity_samples=0)
    straight = run(tmp_path / "straight", sensitivity_samples=0)
    assert whole.stopped == "finished"
    same(kept(tmp_path / "straight"), kept(tmp_path / "part"))
    assert whole.points == straight.points


class Diverging(FineTune):
    """A loss that is NaN from some step on."""

    kind: Literal["diverging"] = "diverging"  # type: ignore[assignment]  # a kind of its own, as no member has
    at: int = Field(6, description="The step.")

    def loss(self, step: TrainingStep) -> Terms:
        terms = super().loss(step)
        return Terms(terms.loss * (torch.nan if step.number >= self.at else 1.0), terms.parts)


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # the method is in no catalogue
def test_a_loss_that_is_no_number_stops_before_any_weight_moves(tmp_path: Path) -> None:
    classifier = deeper_classifier()
    data = labelled(deeper_classifier(), n=40)
    spec = spec_of().model_copy(update={"hardening": Diverging()})
    with pytest.raises(
        TrainingError, match=r"became NaN at step 7 of 12 \(epoch 2\): loss nan, clean [\d.]+\."
    ) as error:
        train(spec, classifier, data, folder=tmp_path, checkpoint_seconds=0)
    assert "smaller learning rate" in error.value.hint
    assert json.loads(_metadata(tmp_path / "last.safetensors"))["state"]["step"] == 6
    assert all(value.isfinite().all() for value in last(tmp_path).values())
    assert json.loads(_metadata(tmp_path / "best.safetensors"))["best"]["epoch"] == 1
    kept = error.value.result
    assert (kept.stopped, kept.steps, kept.best.epoch) == ("diverged", 6, 1)


def test_every_checkpoint_is_told_once_it_is_written(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def note(step: int) -> None:
        told.append((step, json.loads(_metadata(tmp_path / "last.safetensors"))["state"]["step"]))

    classifier = deeper_classifier()
    train(spec_of(), classifier, data_of(40), folder=tmp_path, on_checkpoint=note, checkpoint_seconds=1e9)
    # 36 images to train on, batches of 8: four steps in an epoch, and a checkpoint after each.
    assert told == [(0, 0), (4, 4), (8, 8), (12, 12)]


def _metadata(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return str(file.metadata()["data"])


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    other = deeper_classifier(seed=1)
    for more in ({"learning_rate": 0.04}, {"seed": 1}, {"classifier": other}, {"n": 41}):
        with pytest.raises(MismatchError, match="checkpoint of another training"):
            run(tmp_path, **more)


def test_a_checkpoint_from_elsewhere_is_refused_and_one_from_here_is_continued_however_the_device_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("auditor.hardening.training.ComputeSite", lambda *place: ComputeSite("cuda"))
        run(tmp_path, epochs=1)
    with pytest.raises(MismatchError, match="made on a GPU; here it would be continued on a CPU"):
        run(tmp_path, epochs=1)
    if not torch.cuda.is_available():
        first = run(tmp_path / "auto", epochs=1, device="auto")
        told: list[str] = []
        again = run(tmp_path / "auto", epochs=1, on_progress=lambda share, what: told.append(what))
        assert (told, again.best_sha256) == ([], first.best_sha256)


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    points: list[TrainingPoint] = []
    progress: list[float] = []
    again = run(tmp_path, on_point=points.append, on_progress=lambda share, what: progress.append(share))
    assert again.model_dump(exclude={"provenance": {"seconds"}}) == first.model_dump(
        exclude={"provenance": {"seconds"}}
    )
    assert tuple(points) == first.points
    assert progress == []


def test_the_same_budget_is_the_same_cost(tmp_path: Path) -> None:
    """A budget of 36 forward passes per image: 12 epochs of fine-tuning (1 + 2), or 36 / 15 of PAT with three steps."""
    costs = {}
    for kind, epochs in (("fine_tune", 12), ("pat", 2.4)):
        hardening = {"kind": kind} | ({"steps": 3} if kind == "pat" else {})
        result = run(tmp_path / kind, hardening=hardening, budget=36.0, n=80)
        assert result.epochs == pytest.approx(epochs, abs=1 / 9)
        costs[kind] = result.training.cost / result.training_samples
    # 9 batches of 8 hold all 72 training images.
    assert costs["fine_tune"] == pytest.approx(36)
    assert costs["pat"] == pytest.approx(36, rel=0.05)


def test_training_from_scratch_forgets_the_weights(tmp_path: Path) -> None:
    result = {}
    for seed in (0, 1):
        classifier = deeper_classifier(seed)
        train(spec_of(from_scratch=True), classifier, labelled(deeper_classifier(), n=40), folder=tmp_path / str(seed))
        result[seed] = kept(tmp_path / str(seed))
    same(*result.values())
    run(tmp_path / "from")
    assert not torch.equal(kept(tmp_path / "from")["0.weight"], result[0]["0.weight"])


@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_averaged_weights_are_validated_and_kept(averaging: str, tmp_path: Path) -> None:
    """Beside the weights of trainings without averaging that end at every step that counts."""
    run(tmp_path / "averaged", averaging=averaging, swa_start=0.5, ema_decay=0.5, select="last", schedule="constant")
    moments = range(1, 13) if averaging == "ema" else (8, 12)
    expected: dict[str, Tensor] = {}
    for number, moment in enumerate(moments):
        # Fine-tuning costs three passes for each image; an epoch has four steps.
        run(tmp_path / f"at-{moment}", budget=(moment + 0.01) * 3 / 4, select="last", schedule="constant")
        state = last(tmp_path / f"at-{moment}")
        share = 1 / (number + 1) if averaging == "swa" else 1 - min(0.5, (1 + number) / (10 + number))
        for name, value in state.items():
            expected[name] = value.double() if not expected or name not in expected else (
                (1 - share) * expected[name] + share * value.double()
            )  # fmt: skip
    for name, value in kept(tmp_path / "averaged").items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], rtol=1e-4, atol=1e-6), name


def test_half_precision_and_dropout_resume_to_the_bit_too(tmp_path: Path) -> None:
    layers = [
        {"type": "conv", "out_channels": 8, "kernel_size": 3}, {"type": "batch_norm"}, {"type": "relu"},
        {"type": "flatten"}, {"type": "dropout", "p": 0.5}, {"type": "linear", "out_features": 5},
    ]  # fmt: skip
    architecture = ARCHITECTURES.build("sequential", {"height": 6, "width": 6, "num_classes": 5, "layers": layers})
    torch.manual_seed(0)
    classifier = Classifier(architecture.build(), input_shape=(3, 6, 6), num_classes=5)
    more: dict[str, Any] = {"classifier": classifier, "precision": "bf16", "augmentation": "crop_flip", "epochs": 2}
    run(tmp_path / "whole", **more)
    begun = 0
    for steps in (2, 5, 8):  # of eight, four in an epoch
        done = [begun]
        begun = steps
        found = run(
            tmp_path / "parts",
            stop=lambda done=done, steps=steps: done[0] == steps < 8,
            on_progress=lambda share, what, done=done: done.__setitem__(0, done[0] + what.startswith("epoch")),
            **more,
        )
        assert (found.stopped, found.steps) == ("finished" if steps == 8 else "cancelled", steps)
    same(kept(tmp_path / "whole", "last"), kept(tmp_path / "parts", "last"))
    run(tmp_path / "full", **more | {"precision": "float32"})
    assert not torch.equal(last(tmp_path / "full")["0.weight"], last(tmp_path / "whole")["0.weight"])


def test_torchs_own_random_numbers_are_left_alone(tmp_path: Path) -> None:
    classifier, data = deeper_classifier(), data_of(40)
    spec = spec_of(hardening={"kind": "pat", "steps": 1}, augmentation="crop_flip")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(spec, classifier, data, folder=tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_points_carry_losses_accuracies_and_sensitivities(tmp_path: Path) -> None:
    points: list[TrainingPoint] = []
    shares: list[float] = []
    result = run(
        tmp_path, hardening={"kind": "pat", "steps": 2, "epsilon": 0.1}, on_point=points.append,
        on_progress=lambda share, what: shares.append(share),
    )  # fmt: skip
    assert tuple(points) == result.points
    assert [point.step for point in points] == list(range(13))
    first, *others = points
    assert (first.terms, first.epoch) == ({}, 0.0)
    assert all(set(point.terms) == {"loss", "clean", "adversarial"} for point in others)
    ends = [point for point in points if point.step % 4 == 0]
    assert all(point.clean and point.robust and set(point.sensitivity) == {"0", "4"} for point in ends)
    assert all(point.clean is None for point in points if point.step % 4)
    assert all(
        point.terms["loss"] == pytest.approx((point.terms["clean"] + point.terms["adversarial"]) / 2)
        for point in others
    )
    assert [point.learning_rate for point in points] == pytest.approx([0.05] * 8 + [0.005] * 5)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(set(shares)) > 12 + 4 * 2, "validations move, too"
    assert result.validation.forwards > result.validation.backwards > 0
    assert TrainingResult.model_validate_json(result.model_dump_json()) == result


def test_progress_counts_steps_and_validations_by_what_they_cost(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    run(
        tmp_path, hardening={"kind": "pat", "steps": 2, "epsilon": 0.1},
        on_progress=lambda share, what: told.append((share, what.split(" ")[0])),
    )  # fmt: skip
    # Forward passes, a backward pass as two. A step: 8 images, 4 forwards and 4 backwards each (two steps of the attack, two
    # sides), 8 (4 + 2 * 4) = 96. A pause: 4 images, clean and under PGD with two steps and a last look, 4 (1 + 2 * 3 + 1) = 32;
    # on as many both sides once more, 4 (2 + 2 * 3 + 1) = 36. Twelve steps, a pause before them and after each epoch:
    # 12 * 96 + 4 * 68 = 1424.
    steps = [share for share, what in told if what == "epoch"]
    assert steps == pytest.approx([(96 * step + 68 * (1 + (step - 1) // 4)) / 1424 for step in range(1, 13)])
    pauses = [share for share, what in told if what == "validation:"]
    assert pauses == sorted(pauses)
    for epoch in range(4):
        begin = (4 * 96 + 68) * epoch
        shares = [1424 * share for share in pauses if begin - 1e-9 <= 1424 * share <= begin + 68 + 1e-9]
        assert len(set(shares)) >= 3
        assert shares[-1] == pytest.approx(begin + 68)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    for more, message in (
        ({"nesterov": True, "momentum": 0}, "nesterov: expected a momentum greater than 0"),
        ({"patience": 3, "select": "last"}, "expected select = robust or clean"),
        ({"from_scratch": True, "batch_norm": "fixed"}, "new weights have no statistics"),
        ({"from_scratch": True, "hardening": {"kind": "pat", "train_from": "4"}}, "the method freezes layers"),
        ({"epochs": 0}, "epochs: expected greater than or equal to 1, got 0"),
        ({"hardening": {"kind": "nothing"}}, "hardening"),
        ({"nonsense": 1}, "training: nonsense is not a parameter"),
    ):
        with pytest.raises(SpecError, match=message):
            spec_of(**more)
    with pytest.raises(MismatchError, match="too few are left"):
        run(tmp_path, n=2)
    with pytest.raises(SpecError, match="no layer 'nowhere'"):
        run(tmp_path, hardening={"kind": "fine_tune", "train_from": "nowhere"})
    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match="PyTorch finds no GPU"):
            run(tmp_path, device="cuda")


def test_a_spec_survives_json_and_names_the_radius_of_its_validation() -> None:
    spec = spec_of(hardening={"kind": "pat", "epsilon": "4/255"}, validation_norm="l2")
    assert TrainingSpec.load(spec.model_dump_json()) == spec
    assert str(spec.threat) == "L2 ε = 4/255"
    assert spec_of().threat.epsilon == 8 / 255
    assert spec_of(validation_epsilon=0.1).threat.epsilon == 0.1
    assert all(field.description for field in TrainingSpec.model_fields.values())


def points_of(*robust: int) -> list[TrainingPoint]:
    return [
        TrainingPoint(
            step=4 * epoch, epoch=epoch, learning_rate=0.1, clean=Rate.count(90, 100), robust=Rate.count(hits, 100)
        )
        for epoch, hits in enumerate(robust)
    ]


def test_doubts_are_read_from_the_curves() -> None:
    def found(
        points: list[TrainingPoint], clean: int = 90, robust: int = 40, stopped: str = "finished", **more: Any
    ) -> list[str]:
        best = BestWeights(epoch=1, clean=Rate.count(clean, 100), robust=Rate.count(robust, 100))
        return [flag.name for flag in doubts(spec_of(**more), points, best, stopped, 10)]

    assert found(points_of(0, 30, 40, 40)) == []
    assert found(points_of(0, 30, 35, 40)) == ["robust accuracy still rising"]
    assert found(points_of(0, 30, 35, 40), stopped="cancelled") == []
    assert found(points_of(0, 30, 35, 40), select="last") == []
    assert found(points_of(0, 30, 5)) == ["robust accuracy collapsed"]
    assert found(points_of(0, 4, 1)) == []
    assert found(points_of(0, 30, 30), clean=8) == ["no better than chance"]
    assert found(points_of(0, 2, 1), robust=2) == ["weights chosen by accident"]
    assert found(points_of(0, 2, 1), robust=3) == []
    assert found(points_of(0, 2, 1), robust=2, select="clean") == []


@pytest.fixture(scope="module")
def fashion() -> tuple[Classifier, ImageDataset]:
    with np.load(IMAGES) as arrays:
        data = ImageDataset(arrays["images"][..., None], arrays["labels"].astype(np.int64))
    network = ARCHITECTURE.build()
    load_weights(network, WEIGHTS["plain"])
    return Classifier(network, input_shape=(1, 28, 28), num_classes=10), data


def test_adversarial_training_of_the_sample_makes_it_robust(
    fashion: tuple[Classifier, ImageDataset], tmp_path: Path
) -> None:
    """Two epochs over 1,800 images: from 0 % to about half under PGD at 0.1; the control stays at 0."""
    robust = {}
    for kind, more in (("pat", {"epsilon": EPSILON, "steps": 3}), ("fine_tune", {})):
        spec = TrainingSpec.load(
            {
                "hardening": {"kind": kind, **more}, "epochs": 2, "learning_rate": 0.02, "augmentation": "none",
                "validation_epsilon": EPSILON, "sensitivity_samples": 0, "device": "cpu",
            }
        )  # fmt: skip
        result = train(spec, *fashion, folder=tmp_path / kind)
        robust[kind] = [known(point.robust.value) for point in result.points if point.robust is not None]
    assert robust["pat"][0] == 0
    assert robust["pat"][-1] > 0.35
    assert robust["fine_tune"][-1] < 0.05


def test_every_method_is_found() -> None:
    assert set(HARDENINGS.members) >= {
        "alp", "cas", "fast_at", "feature_denoising", "fine_tune", "mart", "pat", "route_gradient", "route_weight",
        "sensitivity_regulariser", "sns", "trades",
    }  # fmt: skip
