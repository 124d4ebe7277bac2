"""timm's and transformers' networks: built as the libraries build them, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch

from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from tests.late import late

timm = late("timm")
transformers = late("transformers")

FAMILIES = (
    "resnet18", "resnet18.tv_in1k", "convnextv2_atto", "mobilenetv3_small_050", "efficientnet_b0", "vgg11_bn", "regnety_002",
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224", "swin_tiny_patch4_window7_224", "densenet121",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_timms_state_dicts_fit_and_compute_the_same(name: str) -> None:
    spec = ARCHITECTURES.parse(f"timm:model={name}", {"num_classes": 4})
    with torch.device("meta"):
        names = spec.build().state_dict().keys()
    torch.manual_seed(1)
    theirs = timm.create_model(name.partition(".")[0], num_classes=4).eval()
    assert names == theirs.state_dict().keys()
    ours = spec.build().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_a_vision_transformer_of_timm_may_take_another_size() -> None:
    spec = ARCHITECTURES.parse("timm:model=vit_tiny_patch16_224,height=64,width=64,channels=1,num_classes=3")
    with torch.no_grad():
        assert spec.build().eval()(torch.rand(2, 1, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timm:model=resnet19", "timm has no classifier 'resnet19' (close to it: resnet18"),
        ("timm:model=hf-hub:timm/resnet18", "timm has no classifier 'hf-hub:timm/resnet18'"),
        ("timm:model=local-dir:/etc", "timm has no classifier 'local-dir:/etc'"),
        ("timm:model=resnet18.nobody", "timm has no weights 'nobody' of resnet18 (it has a1_in1k"),
        ("timm:model=inception_v3,height=30,width=30", "timm inception_v3 cannot take images of 30x30"),
        ("transformers:model=vitt", "transformers has no image classifier 'vitt' (close to it: vit"),
        ("transformers:model=timm_wrapper", "transformers has no image classifier 'timm_wrapper'"),
    ],
)
def test_a_network_that_is_not_there_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        ARCHITECTURES.parse(text).build()
    assert message in str(error.value)


@pytest.mark.parametrize(("library", "extra"), [("timm", "timm"), ("transformers", "hf")])
def test_without_the_library_the_extra_is_named(library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    from auditor.models.architectures import timm_models

    timm_models._names.cache_clear()
    with pytest.raises(SpecError) as error:
        ARCHITECTURES.parse(library).build()
    assert f"pip install 'neuron-auditor[{extra}]'" in str(error.value)
    timm_models._names.cache_clear()


def test_a_configuration_that_fetches_another_network_is_refused() -> None:
    with pytest.raises(SpecError, match="would fetch another network"):
        ARCHITECTURES.build("transformers", {"model": "resnet", "config": {"use_pretrained_backbone": True}})


def test_a_configuration_is_described_by_its_number_of_entries() -> None:
    spec = ARCHITECTURES.build("transformers", {"model": "vit", "config": {"hidden_size": 64, "patch_size": 16}})
    assert spec.describe() == "transformers:vit,num_classes=1000,input=3x224x224,entries=2"
