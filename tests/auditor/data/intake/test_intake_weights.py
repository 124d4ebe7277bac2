"""Weights that are accepted, and weights that do not fit: against torch and safetensors as outside readers."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from auditor.data.intake.weights import all_finite, load_weights
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from tests.auditor.data.intake.conftest import Door, Saved, Tiny
from tests.narrow import known


def same(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(stored) == set(expected)
    for key, value in expected.items():
        assert torch.equal(stored[key], value), key


def test_every_format_gives_the_same_stored_file(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    zip_, legacy, safe = saved(state), saved(state, _use_new_zipfile_serialization=False), save_safetensors(state)
    manifests = [
        door.model(content, name) for content, name in ((zip_, "a.pt"), (legacy, "a.pth"), (safe, "a.safetensors"))
    ]
    assert [m.format for m in manifests] == ["torch zip", "torch legacy", "safetensors"]
    assert len({m.sha256 for m in manifests}) == 1
    same(door.tensors(), state)
    first = manifests[0]
    content = door.destination.read_bytes()
    assert (first.sha256, first.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert first.source_sha256 == hashlib.sha256(zip_).hexdigest()
    # Conv 4*3*3*3 + 4, batch normalization 2*4, linear 10*64 + 10
    assert (first.parameters, first.tensors) == (108 + 4 + 8 + 650, len(state))
    assert (first.wrapper, first.prefix, first.notes, first.source_name) == (None, "", (), "a.pt")
    assert [path.name for path in door.stored.iterdir()] == ["accepted"]


@pytest.mark.parametrize("name", ["a.pt", "a.th", "a.ckpt", "a.bin", "a", "a.png"])
def test_the_suffix_does_not_matter(door: Door, state: dict[str, Tensor], saved: Saved, name: str) -> None:
    assert door.model(saved(state), name).notes == ()


def test_a_misleading_suffix_is_noted(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    assert "it is a torch zip file" in door.model(saved(state), "a.safetensors").notes[0]
    legacy = saved(state, _use_new_zipfile_serialization=False)
    assert "it is a torch legacy file" in door.model(legacy, "a.safetensors").notes[0]
    assert "it is a safetensors file" in door.model(save_safetensors(state), "a.pt").notes[0]


@pytest.mark.parametrize(
    "wrapper",
    [
        "state_dict",
        "model",
        "model_state_dict",
        "net",
        "params",
        "weights",
        "ema",
        "model_ema",
        "state_dict_ema",
        "last",
    ],
)
def test_wrappers_are_taken_off_and_named(door: Door, state: dict[str, Tensor], saved: Saved, wrapper: str) -> None:
    manifest = door.model(saved({"epoch": 3, "best": 0.5, wrapper: OrderedDict(state), "args": {"lr": 0.1}}))
    assert manifest.wrapper == wrapper
    same(door.tensors(), state)
    assert "'epoch', 'best', 'args'" not in " ".join(manifest.notes)  # beside the wrapper nothing was expected


def test_a_real_training_checkpoint(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    network = Tiny(height=8, width=8).build()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": 2**40,
        "accuracies": {0.1: 0.5, (8, 255): 0.3},
        "done": True,
        "size": torch.Size([3, 32]),
        "dtype": torch.float32,
        "device": torch.device("cuda:0"),
        "names": {"a", "b"},
    }
    assert door.model(saved(checkpoint)).wrapper == "model"
    same(door.tensors(), network.state_dict())
    door.model(saved(checkpoint, _use_new_zipfile_serialization=False))
    same(door.tensors(), network.state_dict())
    door.model(saved(dict(network.named_parameters()) | dict(network.named_buffers())))
    same(door.tensors(), network.state_dict())


def test_averaged_weights_are_preferred_and_the_choice_is_told(
    door: Door, state: dict[str, Tensor], saved: Saved
) -> None:
    other = {key: value + 1 for key, value in state.items()}
    manifest = door.model(saved({"state_dict": other, "state_dict_ema": state}))
    assert manifest.wrapper == "state_dict_ema"
    assert "several sets of weights (state_dict_ema, state_dict)" in manifest.notes[0]
    same(door.tensors(), state)


def test_wrappers_nest_and_empty_ones_are_passed_over(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    assert door.model(saved({"model": {"state_dict": state, "arch": "tiny"}})).wrapper == "model.state_dict"
    assert door.model(saved({"model_ema": None, "model": {}, "net": state})).wrapper == "net"
    assert (
        door.model(saved({"model": {"arch": "tiny"}, "params": {"lr": {"a": 1}}, "weights": state})).wrapper
        == "weights"
    )


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "net.", "module.model.", "_orig_mod.module."])
def test_prefixes_that_every_name_has_are_taken_off(
    door: Door, state: dict[str, Tensor], saved: Saved, prefix: str
) -> None:
    manifest = door.model(saved({"state_dict": {prefix + key: value for key, value in state.items()}}))
    assert manifest.prefix == prefix
    assert f"'{prefix}'" in manifest.notes[0]
    same(door.tensors(), state)


def test_a_prefix_that_one_name_lacks_is_a_wrapper_within_names(
    door: Door, state: dict[str, Tensor], saved: Saved
) -> None:
    renamed = {("module." + key if key != "5.bias" else key): value for key, value in state.items()}
    manifest = door.model(saved(renamed))
    assert manifest.prefix == ""
    assert manifest.notes == ("Wrappers ('module', '_orig_mod') were taken out of the names.",)
    same(door.tensors(), state)


def test_a_prefix_that_the_architecture_has_stays(door: Door, saved: Saved) -> None:
    class Wrapped(Tiny):
        def build(self) -> nn.Module:
            return nn.ModuleDict({"model": super().build()})

    content = Wrapped(height=8, width=8).build().state_dict()
    manifest = door.model(
        saved({f"module.{k}": v for k, v in content.items()}), architecture=Wrapped(height=8, width=8)
    )
    assert manifest.prefix == "module."
    same(door.tensors(), content)


@pytest.mark.parametrize(
    ("mean", "std", "prefix"),
    [
        ("mu", "sigma", ""),
        ("normalize.mean", "normalize.std", "model."),
        ("module.normalize.mean", "module.normalize.std", "module.model."),
        ("0.mean", "0.std", "1."),
        ("module.0.means", "module.0.sds", "module.1."),
        ("mean", "std", ""),
        ("normalizer.mean", "normalizer.std", "net."),
    ],
)
def test_an_embedded_normalization_is_evidence(
    door: Door, state: dict[str, Tensor], saved: Saved, mean: str, std: str, prefix: str
) -> None:
    values = {mean: torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1), std: torch.tensor([0.25, 0.24, 0.26])}
    manifest = door.model(saved({prefix + key: value for key, value in state.items()} | values))
    assert manifest.prefix == prefix
    assert known(manifest.embedded_normalization).mean == pytest.approx((0.4914, 0.4822, 0.4465))
    assert known(manifest.embedded_normalization).std == pytest.approx((0.25, 0.24, 0.26))
    assert "The file carries a normalization: mean 0.4914 0.4822 0.4465, std 0.25 0.24 0.26" in " ".join(manifest.notes)
    same(door.tensors(), state)


def test_half_a_normalization_is_only_told(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    manifest = door.model(saved(state | {"mu": torch.tensor([0.5, 0.5, 0.5])}))
    assert manifest.embedded_normalization is None
    assert "'mu'" in " ".join(manifest.notes) or "mu" in " ".join(manifest.notes)
    nan = {"mean": torch.tensor([float("nan")]), "std": torch.tensor([1.0])}
    assert door.model(saved(state | nan)).embedded_normalization is None


def test_a_large_tensor_called_mean_is_not_a_normalization(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.refuse_model(saved(state | {"mean": torch.zeros(17)}), "1 unexpected ('mean')")


def test_the_second_part_of_a_sequential_without_its_normalization_is_told(
    door: Door, state: dict[str, Tensor], saved: Saved
) -> None:
    manifest = door.model(saved({f"1.{key}": value for key, value in state.items()}))
    assert manifest.prefix == "1."
    assert "probably its normalization, is not in the file" in manifest.notes[1]


def test_counters_of_batches(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    without = {key: value for key, value in state.items() if "num_batches" not in key}
    manifest = door.model(saved(without))
    assert "set to 0" in manifest.notes[0]
    same(door.tensors(), state | {"1.num_batches_tracked": torch.tensor(0)})
    small = state | {"1.num_batches_tracked": torch.tensor(17, dtype=torch.int32)}
    assert door.model(saved(small)).notes == ()
    same(door.tensors(), state)
    extra = state | {"9.num_batches_tracked": torch.tensor(1)}
    assert "1 unused counter" in door.model(saved(extra)).notes[0]
    swa = {f"module.{key}": value for key, value in state.items()} | {"n_averaged": torch.tensor(5)}
    assert door.model(saved(swa)).prefix == "module."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32_with_a_note(
    door: Door, state: dict[str, Tensor], saved: Saved, dtype: torch.dtype
) -> None:
    changed = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    manifest = door.model(saved(changed))
    assert manifest.notes == (f"Converted to float32 from {str(dtype)[6:]} (8 tensors).",)
    same(door.tensors(), {key: value.float() if value.is_floating_point() else value for key, value in changed.items()})


def test_views_are_stored_as_what_they_show(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    bank = torch.randn(1000)
    views = state | {
        "5.weight": torch.randn(64, 10).t(),
        "5.bias": bank[100:110],
        "1.weight": bank[::250],
        "1.bias": torch.ones(1).expand(4),
    }
    door.model(saved(views))
    same(door.tensors(), views)


def test_other_things_beside_the_tensors_are_named(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    manifest = door.model(saved(dict([*state.items(), ("epoch", 3), (7, "x")])))
    assert manifest.notes == ("Beside the tensors the file holds, and we ignored: 'epoch', a number.",)


def test_an_old_file_is_replaced(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.destination.write_bytes(b"old")
    door.model(saved(state))
    same(door.tensors(), state)


def test_a_refusal_leaves_an_old_file_as_it_was(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.destination.write_bytes(b"old")
    with pytest.raises(IntakeError):
        door.model(saved(state)[:-50])
    assert door.destination.read_bytes() == b"old"
    assert len(list(door.stored.iterdir())) == 1


def test_load_weights_on_meta_and_on_cpu(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.model(saved(state))
    with torch.device("meta"):
        on_meta = Tiny(height=8, width=8).build()
    on_cpu = Tiny(height=8, width=8).build()
    for network in (on_meta, on_cpu):
        load_weights(network, door.destination)
        same(network.state_dict(), state)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(on_meta.eval()(x), on_cpu.eval()(x))


def test_load_weights_refuses_another_network(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.model(saved(state))
    for network in (Tiny(height=8, width=8, num_classes=3).build(), nn.Linear(2, 2)):
        with pytest.raises(IntakeError, match="does not hold the weights of this network"):
            load_weights(network, door.destination)
    with pytest.raises(IntakeError, match="does not hold"):
        load_weights(Tiny().build(), door.stored / "absent")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cnn-a-adversarially-trained.pt", {}),
        ("fashion-certified-0.1.pth", {"channels": 1, "height": 28, "width": 28}),
    ],
)
def test_real_files(door: Door, shared: Path, name: str, file: dict[str, int]) -> None:
    class CnnA(Tiny):
        def build(self) -> nn.Module:
            return nn.Sequential(
                *(nn.Conv2d(self.channels, 16, 4, 2, 1), nn.ReLU()),
                *(nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
                *(nn.Linear(2 * self.height * self.width, 100), nn.ReLU(), nn.Linear(100, 10)),
            )

    source = shared / "weights" / name
    manifest = door.model(source.read_bytes(), name, CnnA(**file))
    assert manifest.notes == ()
    same(door.tensors(), torch.load(source, weights_only=True, map_location="cpu"))


def test_real_wrapped_and_prefixed_files(door: Door, shared: Path) -> None:
    for name in ("resnet20-12fca82f.th", "resnet32-d509ac18.th"):
        source = shared / "weights" / name
        oracle = torch.load(source, weights_only=True, map_location="cpu")["state_dict"]
        content = {key.removeprefix("module."): value for key, value in oracle.items()}

        class Same(Tiny):
            def build(self, content: dict[str, Tensor] = content) -> nn.Module:
                network = nn.Module()
                for key, value in content.items():
                    *path, leaf = key.split(".")
                    place = network
                    for part in path:
                        if part not in dict(place.named_children()):
                            place.add_module(part, nn.Module())
                        place = getattr(place, part)
                    place.register_buffer(leaf, torch.empty(value.shape, dtype=value.dtype))
                return network

        manifest = door.model(source.read_bytes(), name, Same())
        assert (manifest.wrapper, manifest.prefix, manifest.format) == ("state_dict", "module.", "torch legacy")
        same(door.tensors(), content)


# What does not fit.


def test_another_architecture_names_what_differs(door: Door, saved: Saved) -> None:
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).state_dict()
    error = door.refuse_model(
        saved(other),
        "do not fit the architecture tiny",
        # Both have 0.weight, 0.bias, 1.weight and 1.bias; the counter of batches is not asked for.
        "4 missing ('1.running_mean', '1.running_var', '5.weight', ...)",
        "4 of another shape ('0.weight' is 3x3, expected 4x3x3x3",
    )
    assert "classes" not in error.message


def test_unexpected_tensors_are_named(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.refuse_model(
        saved(state | {f"extra.{i}": torch.zeros(1) for i in range(5)}),
        "5 unexpected ('extra.0', 'extra.1', 'extra.2', ...)",
    )


def test_only_the_classes_differ(door: Door, saved: Saved) -> None:
    content = Tiny(height=8, width=8, num_classes=100).build().state_dict()
    error = door.refuse_model(saved(content), "the file has 100 classes, you declared 10")
    assert error.hint == (
        "Declare what the file was trained with: `--num-classes 100` on the command line, 'Num classes' on the page."
    )
    assert door.model(saved(content), architecture=Tiny(height=8, width=8, num_classes=100))


def test_only_the_channels_differ(door: Door, saved: Saved) -> None:
    content = Tiny(height=8, width=8, channels=1).build().state_dict()
    door.refuse_model(saved(content), "the file takes 1 channel, you declared 3")


def test_only_the_image_size_differs(door: Door, saved: Saved) -> None:
    content = Tiny(height=16, width=16).build().state_dict()
    door.refuse_model(saved(content), "'5.weight' takes 256 inputs and your image size gives 64")


def test_classes_and_channels_differ(door: Door, saved: Saved) -> None:
    content = Tiny(height=8, width=8, channels=1, num_classes=2).build().state_dict()
    error = door.refuse_model(saved(content), "the file has 2 classes, you declared 10; the file takes 1 channel")
    assert "`--input 1x8x8 --num-classes 2` on the command line, " in error.hint
    for option in ("--num-classes 2", "--input 1x8x8"):
        assert option in error.hint


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "NaN or infinite"), (float("inf"), "NaN or infinite"), (1e300, "too large for")]
)
def test_values_that_are_no_numbers(
    door: Door, state: dict[str, Tensor], saved: Saved, value: float, words: str
) -> None:
    bad = state["5.weight"].double()
    bad[3, 7] = value
    # Row 3 of 64 columns: position 3*64 + 7
    door.refuse_model(saved(state | {"5.weight": bad}), "'5.weight'", words, "position 199")
    door.refuse_model(save_safetensors(state | {"5.weight": bad}), "'5.weight'", words)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_of_another_type(door: Door, state: dict[str, Tensor], saved: Saved, dtype: torch.dtype) -> None:
    door.refuse_model(
        saved(state | {"5.bias": torch.ones(10).to(dtype)}), "'5.bias'", str(dtype)[6:], "expected float32"
    )


def test_a_float_counter(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    door.refuse_model(saved(state | {"1.num_batches_tracked": torch.tensor(1.5)}), "float32, expected an integer")


def test_eight_bit_floats(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    changed = state | {"5.bias": torch.ones(10).to(torch.float8_e4m3fn)}
    door.refuse_model(saved(changed), "unusual type")
    door.refuse_model(save_safetensors(changed), "'5.bias'", "float8_e4m3fn")


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_without_plain_values(door: Door, state: dict[str, Tensor], saved: Saved, legacy: bool) -> None:
    options = {"_use_new_zipfile_serialization": not legacy}
    door.refuse_model(saved(state | {"5.bias": torch.ones(10).to_sparse()}, **options), "a sparse tensor", "dense")
    door.refuse_model(saved(state | {"5.bias": torch.empty(10, device="meta")}, **options), "a meta tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and files with them exist
        quantized = torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8)
    door.refuse_model(saved(state | {"5.bias": quantized}, **options), "a quantized tensor")


def test_limits(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    content = saved(state)
    door.refuse_model(content, "the limit is 100 bytes", limits=Limits(upload_bytes=100))
    door.refuse_model(content, f"{len(state)} tensors, the limit is 3", limits=Limits(tensors=3))
    door.refuse_model(save_safetensors(state), "tensors, the limit is 3", limits=Limits(tensors=3))
    door.refuse_model(save_safetensors(state), "its header has", limits=Limits(header_bytes=10))
    door.refuse_model(content, "data.pkl", "the limit for it is 10 bytes", limits=Limits(pickle_bytes=10))


def test_numpy_scalars_in_a_checkpoint_are_numbers(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    assert door.model(saved({"state_dict": state, "best": np.float64(0.5)})).notes == ()
    same(door.tensors(), state)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_a_value_that_is_not_finite_is_seen_wherever_it_lies(value: float) -> None:
    """Beside torch.isfinite, which takes several passes; lengths with and without a rest behind whole vectors."""
    for length in (1, 2, 7, 16, 33, 1000):
        values = torch.randn(length, generator=torch.Generator().manual_seed(length))
        assert all_finite(values)
        for place in range(min(length, 70)):
            changed = values.clone()
            changed[place] = value
            assert all_finite(changed) == bool(torch.isfinite(changed).all())


def test_finite_values_may_add_up_to_more_than_their_type_holds() -> None:
    large = torch.full((100,), 3e38)
    assert not large.sum().isfinite()
    assert all_finite(large)
    assert all_finite(-large)
    assert not all_finite(torch.tensor([torch.inf, -torch.inf]))
