"""What every hardening method of the catalogue keeps to, whoever adds it."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from auditor.hardening.hardening import HARDENINGS, Hardening
from auditor.hardening.result import TrainingResult
from auditor.hardening.spec import TrainingSpec
from auditor.hardening.training import train
from auditor.kit.errors import SpecError
from tests.auditor.hardening.hardenings.given import data, method, step_of
from tests.narrow import known
from tests.nets import deeper_classifier

members = pytest.mark.parametrize("kind", [member.kind_name() for member in HARDENINGS])


def spec_of(hardening: Hardening, **more: Any) -> TrainingSpec:
    values = {"epochs": 2, "batch_size": 8, "validation_samples": 8, "validation_steps": 2, "learning_rate": 0.05}
    return TrainingSpec(hardening=hardening, device="cpu", **(values | more))


def trained(hardening: Hardening, folder: Path, **more: Any) -> TrainingResult:
    keys = ("on_point", "stop", "checkpoint_seconds")
    arguments = {key: more.pop(key) for key in keys if key in more}
    classifier = deeper_classifier()
    return train(spec_of(hardening, **more), classifier, data(classifier), folder=folder, **arguments)


def weights(folder: Path, name: str = "best") -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / f"{name}.safetensors")


@members
def test_the_loss_is_finite_and_its_gradient_reaches_every_weight(kind: str) -> None:
    step = step_of(method(kind), double=False)
    terms = method(kind).loss(step)
    assert terms.loss.shape == ()
    assert all(torch.isfinite(value).all() and value.shape == () for value in (terms.loss, *terms.parts.values()))
    terms.loss.backward()
    for name, value in step.trainee.parameters.items():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
    # A bias before a normalization by the batch has no effect, and a new block that starts as the identity gets its gradient
    # through its last weight alone.
    moved = [name for name, value in step.trainee.parameters.items() if bool(known(value.grad).count_nonzero())]
    assert len(moved) >= 0.7 * len(step.trainee.parameters)


@members
def test_the_loss_does_not_depend_on_how_many_images_there_are(kind: str) -> None:
    """Every image twice gives the same loss and gradient: each image counts by itself, and the mean is over the batch."""
    hardening = method(kind, **({"random_start": False} if "random_start" in HARDENINGS[kind].model_fields else {}))
    found = []
    for twice in (False, True):
        step = step_of(hardening, twice=twice, batch_norm="fixed")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = hardening.loss(step).loss
        loss.backward()
        found.append((loss.detach(), [known(value.grad) for value in step.trainee.parameters.values()]))
    (once, slopes), (doubled, slopes_doubled) = found
    assert torch.allclose(once, doubled, rtol=1e-9)
    for one, other in zip(slopes, slopes_doubled, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-10)


@members
def test_a_step_costs_the_passes_that_are_declared(kind: str) -> None:
    hardening = method(kind)
    step = step_of(hardening)
    hardening.loss(step)  # the first time it may look at how the network is made
    before = step.trainee.passes
    images: list[int] = []
    step.trainee.network.register_forward_hook(lambda _module, inputs, _output: images.append(len(inputs[0])))
    hardening.loss(step)
    passes = step.trainee.passes
    assert (passes.forwards - before.forwards, passes.backwards - before.backwards) == (
        8 * hardening.cost.forwards,
        8 * hardening.cost.backwards,
    )
    assert sum(images) == 8 * hardening.cost.forwards


@members
def test_layers_that_are_kept_stay_as_they_are_to_the_bit(kind: str, tmp_path: Path) -> None:
    before = deeper_classifier().network.state_dict()
    trained(method(kind, train_from="4"), tmp_path, select="last")
    after = weights(tmp_path)
    below = [name for name in after if name.split(".")[0] in ("0", "1")]
    assert len(below) == 7
    assert all(torch.equal(before[name], after[name]) for name in below)
    changed = [name for name in after if name in before and not torch.equal(before[name], after[name])]
    assert {"4.weight", "5.running_mean", "8.weight"} <= {name.replace(".layer", "") for name in changed}


@members
def test_a_training_goes_on_from_where_it_was_stopped_and_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    hardening = method(kind)
    points: dict[str, list[str]] = {"whole": [], "parts": []}
    attempts = 0
    whole = trained(hardening, tmp_path / "whole", on_point=lambda point: points["whole"].append(str(point)))
    for _ in range(20):
        asked = count()
        points["parts"].clear()
        attempts += 1
        parts = trained(
            hardening,
            tmp_path / "parts",
            # In the midst of a preparation, of an epoch or of a validation, each time later.
            stop=lambda asked=asked, most=4 + 3 * attempts: next(asked) > most,
            checkpoint_seconds=0,
            on_point=lambda point: points["parts"].append(str(point)),
        )
        if parts.stopped == "finished":
            break
    assert parts.stopped == "finished"
    assert attempts >= 3
    for name in ("best", "last"):
        first, second = weights(tmp_path / "whole", name), weights(tmp_path / "parts", name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    assert points["whole"] == points["parts"]
    assert whole.model_dump(exclude={"provenance": {"seconds"}}) == parts.model_dump(
        exclude={"provenance": {"seconds"}}
    )
    assert TrainingResult.model_validate_json(whole.model_dump_json()) == whole


@members
def test_the_model_that_it_starts_from_is_untouched(kind: str, tmp_path: Path) -> None:
    classifier = deeper_classifier()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    train(spec_of(method(kind), epochs=1), classifier, data(classifier), folder=tmp_path)
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert not any(value.requires_grad for value in classifier.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


@members
def test_survives_json_and_fits_its_schema(kind: str) -> None:
    spec = spec_of(method(kind))
    assert TrainingSpec.load(spec.model_dump_json()) == spec
    jsonschema.validate(method(kind).model_dump(mode="json"), HARDENINGS.json_schema())
    assert all(field.description for field in HARDENINGS[kind].model_fields.values() if field.annotation is not None
               and field.default != kind)  # fmt: skip


@members
def test_a_bad_parameter_gets_a_clear_error(kind: str) -> None:
    with pytest.raises(SpecError, match=f"hardening {kind}: nonsense is not a parameter"):
        HARDENINGS.parse(f"{kind}:nonsense=1")
    for name, schema in HARDENINGS[kind].model_json_schema()["properties"].items():
        if "minimum" in schema or "exclusiveMinimum" in schema:
            with pytest.raises(SpecError, match=f"{name}: expected .*greater than.*, got"):
                HARDENINGS.build(kind, {name: -1})
    with pytest.raises(SpecError, match="no layer 'nowhere'"):
        step_of(method(kind, train_from="nowhere"))
