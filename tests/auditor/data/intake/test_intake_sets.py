"""Which dictionary of tensors is the weights, of all that a checkpoint may hold; and what is looked at is limited."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from auditor.data.intake.sets import averaged, beside_notes, contents
from auditor.kit.errors import IntakeError
from tests.auditor.data.intake.conftest import Door, Saved


def shifted(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value + 1 for key, value in state.items()}


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "beside",
    [
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}},
        {"optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}]},
        {"optimizer_G": {"momentum": torch.ones(3)}},
        {"opt": {"momentum": torch.ones(3)}},
        {"lr_scheduler": {"base": torch.ones(3)}},
        {"scaler": {"scale": torch.ones(3)}},
        {"callbacks": {"ModelCheckpoint": {"best": torch.ones(3)}, "EMA": {"kept": torch.ones(3)}}},
        {"loops": {"fit_loop": {"state": {"a": torch.ones(3)}}}},
        {"rng": {"cpu": torch.ones(3)}},
        {"momenta": {0: {"a": torch.ones(3)}, 1: {"a": torch.ones(3)}}},
        {"metrics": {"loss": torch.tensor(0.5), "seen": torch.tensor(3)}},
        {"counts": {"of": torch.arange(3)}},
        {"far": {"a": {"b": {"c": {"d": {"e": torch.ones(3)}}}}}},
    ],
    ids=lambda beside: next(iter(beside)),
)
@pytest.mark.parametrize("first", [True, False])
def test_tensors_that_are_not_weights_are_passed_over(
    door: Door, state: dict[str, Tensor], saved: Saved, beside: dict[str, Any], first: bool
) -> None:
    net = {"net_sd": state}
    manifest = door.model(saved(beside | net if first else net | beside))
    assert manifest.wrapper == "net_sd"
    assert manifest.notes == ()


def test_class_weights_beside_a_known_wrapper(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    assert door.model(saved({"class_weights": torch.ones(10), "model": state})).wrapper == "model"


def test_tensors_beside_an_unknown_wrapper_are_a_set_too(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    content = saved({"prototypes": torch.ones(10), "net_sd": state})
    door.refuse_model(content, "missing", "'prototypes'")
    assert door.model(content, choice="net_sd").wrapper == "net_sd"


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema"])
def test_averaged_weights_come_first_whatever_the_order(
    door: Door, state: dict[str, Tensor], saved: Saved, key: str
) -> None:
    for content in ({key: state, "state_dict": shifted(state)}, {"model": shifted(state), key: {"module": state}}):
        assert str(door.model(saved(content)).wrapper).startswith(key)
        assert torch.equal(door.tensors()["5.bias"], state["5.bias"])


@pytest.mark.parametrize("start", ["ema_model.module.", "ema_model.", "model_ema.", "ema."])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_an_averaged_copy_among_the_names(
    door: Door, state: dict[str, Tensor], saved: Saved, start: str, wrapper: str | None
) -> None:
    flat = under("online_model.", shifted(state)) | under(start, state) | {"step": torch.tensor(3)}
    content = saved({wrapper: flat} if wrapper else flat)
    manifest = door.model(content)
    assert torch.equal(door.tensors()["5.bias"], state["5.bias"])
    note = next(note for note in manifest.notes if "twice" in note)
    assert f"under '{start}' and 'online_model.'; the averaged one was taken" in note
    option = re.search("`--weights ([^`]+)`", note)
    assert option is not None
    door.model(content, choice=option[1])
    assert torch.equal(door.tensors()["5.bias"], state["5.bias"] + 1)
    if wrapper is None:
        door.model(save_safetensors(flat), "a.safetensors")
        assert torch.equal(door.tensors()["5.bias"], state["5.bias"])
        door.model(save_safetensors(flat), "a.safetensors", choice="online_model")
        assert torch.equal(door.tensors()["5.bias"], state["5.bias"] + 1)


def test_a_part_of_the_network_called_ema_stays(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    """Not a copy: nothing else has its names."""
    door.refuse_model(saved(state | {"ema.weight": torch.ones(3)}), "'ema.weight'")


def test_a_choice_by_its_last_key_or_by_all(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    content = saved({"run": {"student": {"net": state}, "teacher": {"net": shifted(state)}}})
    refused = door.refuse_model(content, "('run.student.net', 'run.teacher.net')")
    assert refused.choices == ("run.student.net", "run.teacher.net")
    assert door.model(content, choice="teacher.net").wrapper == "run.teacher.net"
    door.refuse_model(content, "no set of weights called 'net'", choice="net")


def test_names_of_sets_are_shown_escaped_and_quoted(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    content = saved({"a b": state, "\u202ec\n": state})
    refused = door.refuse_model(content, r"'\u202ec\n'", "`--weights 'a b'`")
    assert door.model(content, choice=refused.choices[0]).wrapper == "a b"
    assert door.model(content, choice=refused.choices[1]).tensors == len(state)


def test_more_sets_than_anyone_saves_are_not_all_kept(door: Door, saved: Saved) -> None:
    content = saved({f"net{i}": {"a": torch.ones(1)} for i in range(500)})
    refused = door.refuse_model(content, "several sets of weights ('net0', 'net1', 'net2', 'net3', 'net4', ...)")
    assert len(refused.choices) == 100


def test_two_keys_that_read_alike(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    assert door.model(saved({"nets": {1: state, "1": shifted(state)}})).wrapper == "nets.1"


def test_names_made_to_look_like_copies_end_soon() -> None:
    names = {f"{i}.x" for i in range(50_000)} | {"ema.x", "ema.y"}
    start = time.process_time()
    assert averaged(dict.fromkeys(names, 0)) == (dict.fromkeys(names, 0), "", "")
    assert time.process_time() - start < 5


def test_containers_that_hold_themselves_end() -> None:
    own: dict[str, Any] = {"a": 1}
    own["own"] = own
    circle: list[Any] = [own]
    circle.append(circle)
    for value in (own, circle, (circle, own)):
        assert contents(value, "x").sets == ()
    doubled: list[Any] = []
    for _ in range(64):
        doubled = [doubled, doubled]
    many: list[Any] = []
    many += [many] * 100_000
    start = time.process_time()
    assert contents([doubled, many], "x").sets == ()
    assert time.process_time() - start < 10
    with pytest.raises(IntakeError, match="more than 500,000 containers"):
        contents([[i] for i in range(500_001)], "x")


def test_only_what_runs_something_is_warned_of() -> None:
    nothing = contents({}, "x")
    harmless = (
        "os_utils.Net",
        "collections.deque",
        "builtins.getattr",
        "code.models.Net",
        "numpy.dtype",
        "posixpath.join",
    )
    assert beside_notes(nothing, harmless) == []
    for path in ("os.system", "posix.system", "subprocess.Popen", "builtins.eval", "importlib.import_module"):
        (note,) = beside_notes(nothing, (*harmless, path))
        assert f"it asks for {path}, which runs as soon as a program loads it with pickle" in note
