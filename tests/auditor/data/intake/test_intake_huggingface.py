"""Folders of the Hugging Face hub, written by transformers and timm themselves, beside what these libraries compute."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.hub_config import Preprocessor, TransformersConfig
from auditor.data.intake.huggingface import _image_size
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.images import decode
from auditor.data.intake.weights import load_weights, take_model
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier, Normalization
from tests.auditor.data.intake.conftest import Door
from tests.auditor.models.architectures.oracle import unlike_fresh
from tests.late import late

transformers = late("transformers")
timm = late("timm")

SIDE = 32
_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48, "patch_size": 8}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessor", _HEADS),
    "deit": ("ViTImageProcessor", _HEADS),
    "deit with teacher": ("ViTImageProcessor", _HEADS),
    "resnet": ("ViTImageProcessor", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2]}),
    "convnext": ("ViTImageProcessor", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}),
    "swin": ("ViTImageProcessor", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}),
    "mobilenet_v2": ("MobileNetV2ImageProcessor", {"depth_multiplier": 0.35}),
    "mobilevit": (
        "MobileViTImageProcessor",
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 24, 32], "num_attention_heads": 2},
    ),
    "efficientnet": (
        "EfficientNetImageProcessor",
        {"width_coefficient": 0.3, "depth_coefficient": 0.2, "hidden_dim": 384},
    ),
}
"""A small network of each sort, and the image processor that the hub's folders of this sort have."""


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., tuple[Path, Any, Any]]:
    """Write a folder as transformers does and zip it; returns the zip, the network and the image processor."""

    def save(sort: str, classes: int = 5, **changes: Any) -> tuple[Path, Any, Any]:
        processor_name, values = SMALL[sort]
        sort, *variant = sort.split(" with ")
        size = {"image_size": SIDE} if sort in ("vit", "deit", "swin", "mobilevit", "efficientnet") else {}
        labels = {index: f"sort {index}" for index in range(classes)}
        config = transformers.AutoConfig.for_model(sort, id2label=labels, **size, **values)
        known: Any = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[sort]
        names = [known] if isinstance(known, str) else list(known)
        network = getattr(transformers, names[len(variant)])(config).eval()
        unlike_fresh(network, seed=3)
        folder = tmp_path / sort
        network.save_pretrained(folder)
        sides = {"height": SIDE, "width": SIDE}
        sized = {"size": sides, "crop_size": sides}
        processor = getattr(transformers, processor_name)(**sized | changes)
        processor.save_pretrained(folder)
        return zipped(folder), network, processor

    return save


def zipped(folder: Path, inside: str = "") -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{inside}{path.name}")
    return target


def taken(source: Path, door: Door, asked: Asked = NOTHING_ASKED) -> tuple[Any, Classifier]:
    """What take_model makes of a file, as a classifier of pixels."""
    manifest = take_model(source, source.name, None, door.destination, asked=asked)
    values = {name: value for name, value in (manifest.architecture or {}).items() if name != "kind"}
    architecture = ARCHITECTURES.build((manifest.architecture or {})["kind"], values)
    network = architecture.build()
    load_weights(network, door.destination)
    return manifest, Classifier(
        network,
        input_shape=architecture.input_shape,
        num_classes=architecture.num_classes,
        normalization=manifest.normalization or NORMALIZATIONS["none"],
        class_names=manifest.class_names,
    )


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


@pytest.mark.parametrize("sort", SMALL)
def test_logits_and_gradients_are_those_of_transformers(sort: str, saved: Any, door: Door) -> None:
    source, network, processor = saved(sort)
    manifest, classifier = taken(source, door)
    levels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    given = processor(images=list(levels), return_tensors="pt")["pixel_values"]
    assert given.shape[-2:] == (SIDE, SIDE)
    with torch.no_grad():
        theirs = network(pixel_values=given).logits
    ours_in = (levels / 255).requires_grad_()
    ours = classifier(ours_in)
    assert theirs.std() > 1e-3
    close(ours.detach(), theirs, 1e-5)
    ours.square().sum().backward()
    theirs_in = given.clone().requires_grad_()
    network(pixel_values=theirs_in).logits.square().sum().backward()
    assert theirs_in.grad is not None
    assert ours_in.grad is not None
    # Per pixel value the gradient differs by the scale of the normalization alone.
    normal = classifier.normalization
    gradient = theirs_in.grad.flip(1) if normal.channel_order == "BGR" else theirs_in.grad
    std = torch.tensor(normal.std).view(1, -1, 1, 1)
    close(ours_in.grad, gradient / (std.flip(1) if normal.channel_order == "BGR" else std), 1e-4)
    assert manifest.class_names == tuple(f"sort {index}" for index in range(5))
    assert f"{type(network).__name__} of transformers" in manifest.notes[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
        (
            {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]},
            Normalization(mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1)),
        ),
        ({"do_normalize": False}, Normalization(mean=(0.0,), std=(1.0,))),
        ({"rescale_factor": 2 / 255}, Normalization(mean=(0.25,) * 3, std=(0.25,) * 3)),
        (
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3},
            Normalization(mean=(0.5,) * 3, std=(0.2,) * 3),
        ),
    ],
    ids=["half", "per channel", "none", "to two", "levels"],
)
def test_mean_and_deviation_come_from_the_file(changes: Any, expected: Normalization, saved: Any, door: Door) -> None:
    source, network, processor = saved("vit", **changes)
    manifest, classifier = taken(source, door)
    assert manifest.normalization is not None
    assert manifest.normalization.mean == pytest.approx(expected.mean)
    assert manifest.normalization.std == pytest.approx(expected.std)
    levels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        theirs = network(**processor(images=list(levels), return_tensors="pt")).logits
        close(classifier(levels / 255), theirs, 1e-5)


def test_a_folder_within_the_zip_and_torchs_own_weights_are_read_alike(saved: Any, door: Door) -> None:
    source, _, _ = saved("resnet")
    expected = taken(source, door)[0]
    folder = source.with_suffix("")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    manifest = taken(zipped(folder, "some/where/"), door)[0]
    assert manifest.sha256 == expected.sha256
    assert manifest.format == "Hugging Face folder"
    assert not any("The file is called" in note for note in manifest.notes)


def test_two_shards_are_one_model(saved: Any, door: Door) -> None:
    source, _, _ = saved("resnet")
    expected = taken(source, door)[0]
    folder = source.with_suffix("")
    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    for number, part in enumerate((tensors[:7], tensors[7:]), start=1):
        save_file(dict(part), folder / f"model-0000{number}-of-00002.safetensors")
    assert taken(zipped(folder), door)[0].sha256 == expected.sha256
    save_file(dict(tensors[:1]), folder / "other.safetensors")
    with pytest.raises(IntakeError, match="is in two files"):
        taken(zipped(folder), door)
    (folder / "other.safetensors").unlink()
    assert taken(zipped(folder), door)[0].sha256 == expected.sha256, "the remedy"


def test_weights_of_another_network_are_refused_and_saving_both_again_mends_it(saved: Any, door: Door) -> None:
    source, network, _ = saved("resnet")
    folder = source.with_suffix("")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("classifier.1.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        IntakeError, match=r"do not fit the 'resnet'.*1 tensors are missing.*classifier\.1\.weight"
    ) as error:
        taken(zipped(folder), door)
    assert "model.save_pretrained('folder')" in str(error.value.hint)
    assert not door.destination.exists()
    network.save_pretrained(folder)
    assert taken(zipped(folder), door)[0].parameters == sum(p.numel() for p in network.parameters())


def test_code_of_the_folder_is_named_and_never_run(saved: Any, door: Door, tmp_path: Path) -> None:
    source, _, _ = saved("vit")
    expected = taken(source, door)[0]
    folder, marker = source.with_suffix(""), tmp_path / "marker"
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    manifest = taken(zipped(folder), door)[0]
    assert manifest.sha256 == expected.sha256
    assert any("auto_map), which was neither read nor run" in note for note in manifest.notes)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "no image classifier 'bert'"),
        ({"model_type": "vitt"}, "close to it: vit"),
        ({"model_type": None}, "names no network"),
        ({"backbone": "resnet50", "use_pretrained_backbone": True}, "would have to be fetched"),
        ({"hidden_size": "wide"}, "cannot be followed"),
        ({"image_size": [[1]]}, "an entry that cannot be read, 'image_size'"),
        ({"num_channels": "many"}, r"an entry that cannot be read, 'num_channels': .*valid integer.*, got 'many'"),
        ({"id2label": {"0": "one"}}, "cannot be followed"),
        ({"num_channels": 10**9}, "cannot be followed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_configuration_that_cannot_be_followed_is_one_error(
    change: Any, message: str, saved: Any, door: Door
) -> None:
    source, _, _ = saved("vit")
    folder = source.with_suffix("")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(IntakeError, match=message):
        taken(zipped(folder), door)
    assert not door.destination.exists()


def test_a_folder_of_timm_gives_names_and_normalization(tmp_path: Path, door: Door) -> None:
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", num_classes=3, in_chans=3).eval()
    folder = tmp_path / "hub"
    folder.mkdir()
    timm.models.save_for_hf(
        network, folder, model_config={"num_classes": 3, "label_names": ["ant", "bee", "cat"]}, safe_serialization=True
    )
    written = json.loads((folder / "config.json").read_text())
    assert written["architecture"] == "mobilenetv3_small_050"
    manifest, classifier = taken(zipped(folder), door)
    assert manifest.architecture is not None
    assert manifest.architecture["kind"] == "timm"
    assert manifest.class_names == ("ant", "bee", "cat")
    x = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(written["pretrained_cfg"][name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        close(classifier(x), network((x - mean) / std), 1e-5)


def test_a_timm_network_with_arguments_is_refused(tmp_path: Path, door: Door) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    network = timm.create_model("mobilenetv3_small_050", num_classes=3)
    timm.models.save_for_hf(network, folder, model_args={"act_layer": "relu"}, safe_serialization=True)
    with pytest.raises(IntakeError, match=r"arguments .*act_layer.* that change it"):
        taken(zipped(folder), door)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ("ViTImageProcessor", {"height": 224, "width": 224, "interpolation": "bilinear"}),
        ("MobileNetV2ImageProcessor", {"height": 224, "width": 224, "mode": "resize-crop", "shorter_side": 256}),
        (
            "CLIPImageProcessor",
            {"height": 224, "width": 224, "mode": "resize-crop", "shorter_side": 224, "interpolation": "bicubic"},
        ),
    ],
)
def test_the_size_of_images_is_the_processors_own(processor: str, expected: Any, tmp_path: Path) -> None:
    """The same image through transformers and through our reading of the size: both are of Pillow's kind."""
    made = getattr(transformers, processor)(do_normalize=False, do_rescale=False)
    made.save_pretrained(tmp_path)
    written = Preprocessor.model_validate_json((tmp_path / "preprocessor_config.json").read_bytes())
    height, width, size = _image_size(written, TransformersConfig(model_type="vit"))
    assert size == ImageSize.model_validate(expected)
    assert (height, width) == (size.height, size.width)
    image = smooth_image(300, 400)
    theirs = torch.as_tensor(made(images=image, return_tensors="pt")["pixel_values"][0]).float()
    stream = BytesIO()
    image.save(stream, "PNG")
    ours = torch.from_numpy(decode(stream.getvalue(), "x.png", Limits(), grey=False, size=size, full_scale=None).pixels)
    assert theirs.shape == (3, height, width)
    assert (ours.permute(2, 0, 1).float() - theirs).abs().max() <= 2, "tensors and Pillow round apart by a level or two"


def smooth_image(height: int, width: int) -> Image.Image:
    down, across = np.mgrid[0:height, 0:width]
    waves = [np.sin(down / 23 + shade) * np.cos(across / 17 - shade) for shade in (0.0, 0.7, 1.9)]
    return Image.fromarray((127.5 + 120 * np.stack(waves, -1)).astype(np.uint8))


def test_a_convnext_below_384_pixels_is_resized_to_more_and_cropped() -> None:
    processor = Preprocessor.model_validate({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3})
    _, _, size = _image_size(processor, TransformersConfig(model_type="convnext"))
    assert size is not None
    assert (size.height, size.shorter_side, size.interpolation) == (224, 256, "bicubic")
    processor = Preprocessor.model_validate({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3})
    _, _, size = _image_size(processor, TransformersConfig(model_type="convnext"))
    assert size is not None
    assert (size.height, size.shorter_side) == (384, None)


@pytest.mark.parametrize(
    ("written", "image_size", "expected"),
    [
        ({"size": 96}, None, (96, 96)),
        ({"size": 96, "do_center_crop": True, "crop_size": 64}, None, (64, 64)),
        ({"size": 96, "do_resize": False}, 32, (32, 32)),
        ({"size": [96, 96]}, [32, 48], (32, 48)),
        ({"size": {"height": 40, "width": 56, "shortest_edge": None}}, 32, (40, 56)),
        ({}, None, (224, 224)),
    ],
    ids=str,
)
def test_a_size_is_read_as_older_folders_write_it(written: Any, image_size: Any, expected: tuple[int, int]) -> None:
    config = TransformersConfig(model_type="vit", image_size=image_size)
    height, width, _ = _image_size(Preprocessor.model_validate(written), config)
    assert (height, width) == expected


def test_a_faulty_entry_is_named_and_correcting_it_is_enough(saved: Any, door: Door) -> None:
    source, _, _ = saved("vit")
    folder = source.with_suffix("")
    file = folder / "preprocessor_config.json"
    right = file.read_text()
    file.write_text(json.dumps(json.loads(right) | {"rescale_factor": "tiny"}))
    with pytest.raises(IntakeError, match=r"'rescale_factor': .*valid number.*, got 'tiny'") as error:
        taken(zipped(folder), door)
    assert str(error.value.hint).startswith("Correct the entry")
    file.write_text(right)
    assert taken(zipped(folder), door)[0].normalization is not None


def test_every_entry_but_names_and_code_shapes_the_network_as_it_is_written() -> None:
    shaping: dict[str, Any] = {"hidden_sizes": [16, 32], "image_size": [32, 48], "num_channels": 1, "new": {"a": None}}
    others = {
        "id2label": {"0": "ant", "x": "no number"},
        "label2id": {"ant": 0},
        "auto_map": {"a": "b"},
        "dtype": "float32",
    }
    config = TransformersConfig.model_validate(shaping | others | {"model_type": "resnet"})
    assert config.shaping == shaping
    assert (config.id2label, config.code, config.fetched) == ({0: "ant"}, ["auto_map"], [])


def test_an_output_of_a_distilled_network_can_be_chosen(saved: Any, door: Door) -> None:
    """DeiT with a teacher answers with three sorts of logits; its own are the mean of the two others."""
    source, network, processor = saved("deit with teacher")
    levels = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    given = processor(images=list(levels), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        record = network(pixel_values=given)
    for output in ("", "cls_logits", "distillation_logits"):
        manifest, classifier = taken(source, door, Asked(None, output))
        with torch.no_grad():
            close(classifier(levels / 255), record[output or "logits"], 1e-5)
        assert manifest.output == ""  # the architecture has it
    with pytest.raises(IntakeError, match="has no output 'distilled'; it has logits, cls_logits, distillation_logits"):
        taken(source, door, Asked(None, "distilled"))
