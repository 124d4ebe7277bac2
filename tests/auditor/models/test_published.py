"""What torchvision and timm publish beside their weights, beside what the libraries' own transforms do."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models import get_model_weights
from torchvision.transforms import v2

from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Normalize
from auditor.models.published import published, published_normalization
from tests.late import late

timm = late("timm")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "efficientnet_v2_l", "vit_b_16", "inception_v3"])
def test_torchvisions_presets_are_read_whole(name: str) -> None:
    found = published(ARCHITECTURES.parse(f"torchvision:model={name}"))
    weights = get_model_weights(name)
    assert found[0].source == f"torchvision {weights.DEFAULT}"
    assert len(found) == len(weights)
    image = torch.rand(1, 3, 300, 400)
    for entry in found:
        member = weights[entry.source.rpartition(".")[2]]
        steps = v2.Compose(
            [
                v2.Resize(entry.resize, v2.InterpolationMode(entry.interpolation), antialias=True),
                v2.CenterCrop(list(entry.crop)),
                Normalize(entry.normalization, 3),
            ]
        )
        torch.testing.assert_close(steps(image), member.transforms()(image), rtol=0, atol=1e-4)
        accuracy = member.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
        assert (entry.accuracy is None) == (accuracy is None or math.isnan(accuracy))
        assert entry.accuracy is None or entry.accuracy * 100 == pytest.approx(accuracy)
        assert entry.class_names is None or entry.class_names[0] == "tench"


@pytest.mark.parametrize(
    "name", ["resnet18.a1_in1k", "resnet18.tv_in1k", "vit_tiny_patch16_224", "convnext_tiny.fb_in22k"]
)
def test_timms_configuration_is_that_of_its_own_transform(name: str) -> None:
    entry = published(ARCHITECTURES.parse(f"timm:model={name}"))[0]
    configuration = timm.get_pretrained_cfg(name)
    data = timm.data.resolve_data_config(pretrained_cfg=configuration.to_dict(), use_test_size=True)
    transform = timm.data.create_transform(**data)
    resize, crop = transform.transforms[0], transform.transforms[1]
    assert entry.normalization.mean == pytest.approx(data["mean"])
    assert entry.normalization.std == pytest.approx(data["std"])
    assert entry.resize == resize.size
    assert list(entry.crop) == list(crop.size)
    assert entry.interpolation == data["interpolation"]


def test_tags_differ_and_the_default_comes_first() -> None:
    found = published(ARCHITECTURES.parse("timm:model=resnet18"))
    assert found[0].source == "timm resnet18.a1_in1k"
    by_source = {entry.source: entry for entry in found}
    assert (found[0].interpolation, by_source["timm resnet18.tv_in1k"].interpolation) == ("bicubic", "bilinear")
    half = published(ARCHITECTURES.parse("timm:model=vit_tiny_patch16_224"))[0]
    assert half.normalization.mean == (0.5, 0.5, 0.5)


def test_published_weights_that_agree_give_the_normalization_and_those_that_differ_are_named() -> None:
    imagenet = NORMALIZATIONS["imagenet"]
    found, said = published_normalization(ARCHITECTURES.parse("torchvision:model=resnet50"))
    assert found == imagenet
    assert said == f"No normalization was given. torchvision ResNet50_Weights.IMAGENET1K_V2 expects {imagenet}: taken."
    found, said = published_normalization(ARCHITECTURES.parse("torchvision:model=vgg16"))
    assert found == imagenet
    assert "VGG16_Weights.IMAGENET1K_FEATURES expects mean 0.48235" in said
    assert "the first was taken, declare the other" in said
    found, said = published_normalization(ARCHITECTURES.parse("torchvision:model=resnet50,num_classes=10"))
    assert found is None
    assert said.endswith(f"expects {imagenet}: declare it if training started from there.")
    half, _ = published_normalization(ARCHITECTURES.parse("timm:model=vit_tiny_patch16_224"))
    assert half is not None
    assert half.std == (0.5, 0.5, 0.5)
    assert published_normalization(ARCHITECTURES.parse("torchvision:model=resnet50,channels=1")) == (None, "")
    assert published_normalization(ARCHITECTURES.parse("lenet5")) == (None, "")


def test_of_other_architectures_nothing_is_published() -> None:
    assert published(ARCHITECTURES.parse("lenet5")) == []
