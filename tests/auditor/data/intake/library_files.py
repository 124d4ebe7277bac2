"""Files of weights as their libraries write them, and what the library itself computes with them."""

from __future__ import annotations

import argparse
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision import models

from auditor.models.classifier import NORMALIZATIONS
from tests.auditor.data.intake.repository_networks import BasicBlock, ResNetOfBlocks, Standardized
from tests.auditor.models.architectures.oracle import unlike_fresh

CLASSES, SIDE = 5, 64
PixelsToLogits = Callable[[Tensor], Tensor]


class LibraryFile(NamedTuple):
    """A file, what its library computes from pixels in [0, 1] (N, C, H, W), and what the user says beside the file."""

    path: Path
    logits: PixelsToLogits
    architecture: str = ""
    normalization: str = ""
    shape: tuple[int, int, int] = (3, SIDE, SIDE)


# Networks and what scales their images.

MOBILENET = f"torchvision:model=mobilenet_v3_small,num_classes={CLASSES},height={SIDE},width={SIDE}"
SQUEEZENET = f"torchvision:model=squeezenet1_1,num_classes={CLASSES},height={SIDE},width={SIDE}"


def of_torchvision(name: str = "mobilenet_v3_small", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"num_classes": CLASSES}
    return unlike_fresh(models.get_model(name, weights=None, **options), seed)


def scaled(network: nn.Module, normalization: str = "imagenet") -> PixelsToLogits:
    """The network behind torchvision's own Normalize."""
    from torchvision.transforms import Normalize

    values = NORMALIZATIONS[normalization]
    normalize = Normalize(values.mean, values.std)
    return lambda x: network.eval()(normalize(x))


def zipped(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as file:
        for path in sorted(item for item in folder.rglob("*") if item.is_file()):
            file.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return target


def trained(network: nn.Module, steps: int = 2) -> torch.optim.Optimizer:
    """Some steps, so that momenta and running statistics are there; returns the optimizer."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.rand(4, 3, SIDE, SIDE)).square().mean().backward()
        optimizer.step()
    network.eval()
    return optimizer


def mobilenet(path: Path, network: nn.Module) -> LibraryFile:
    return LibraryFile(path, scaled(network), MOBILENET, "imagenet")


# torch and torchvision.


def state_dict(folder: Path) -> LibraryFile:
    network = of_torchvision()
    torch.save(network.state_dict(), folder / "model.pth")
    return mobilenet(folder / "model.pth", network)


def state_dict_before_1_6(folder: Path) -> LibraryFile:
    network = of_torchvision()
    torch.save(network.state_dict(), folder / "model.pth", _use_new_zipfile_serialization=False)
    return mobilenet(folder / "model.pth", network)


def whole_model(folder: Path) -> LibraryFile:
    network = of_torchvision()
    torch.save(network, folder / "model.pt")
    return mobilenet(folder / "model.pt", network)


def reference_checkpoint(folder: Path) -> LibraryFile:
    """What torchvision's references/classification/train.py saves with --model-ema; the averaged network is the better one."""
    network = of_torchvision()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimizer = trained(network)
    average.update_parameters(network)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    torch.save(
        {
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": 3,
            "args": argparse.Namespace(model="mobilenet_v3_small", output_dir=str(folder), lr=0.1),
            "model_ema": average.state_dict(),
        },
        folder / "checkpoint.pth",
    )
    return mobilenet(folder / "checkpoint.pth", average.module)


def averaged(folder: Path) -> LibraryFile:
    average = AveragedModel(of_torchvision())
    average.update_parameters(of_torchvision(seed=1))
    average.update_parameters(of_torchvision(seed=2))
    torch.save(average.state_dict(), folder / "swa.pt")
    return mobilenet(folder / "swa.pt", average.module)


def data_parallel(folder: Path) -> LibraryFile:
    network = of_torchvision()
    torch.save({"state_dict": nn.DataParallel(network).state_dict(), "best_acc1": torch.tensor(71.2)}, folder / "a.tar")
    return mobilenet(folder / "a.tar", network)


def compiled(folder: Path) -> LibraryFile:
    network = of_torchvision()
    made: Any = torch.compile(network)
    torch.save(made.state_dict(), folder / "compiled.pt")
    return mobilenet(folder / "compiled.pt", network)


def half(folder: Path) -> LibraryFile:
    network = of_torchvision().half()
    torch.save(network.state_dict(), folder / "half.pt")
    return mobilenet(folder / "half.pt", network.float())


def whole_safetensors(folder: Path) -> LibraryFile:
    network = of_torchvision()
    save_model(network, str(folder / "model.safetensors"))
    return mobilenet(folder / "model.safetensors", network)


def _on_convolutions(folder: Path, change: Callable[[nn.Module], object]) -> LibraryFile:
    """On every fourth: a network of spectral norms alone answers next to nothing."""
    network = of_torchvision("squeezenet1_1")
    for module in [module for module in network.modules() if isinstance(module, nn.Conv2d)][::4]:
        change(module)
    trained(network)
    torch.save(network.state_dict(), folder / "model.pt")
    return LibraryFile(folder / "model.pt", scaled(network), SQUEEZENET, "imagenet")


def pruned(folder: Path) -> LibraryFile:
    return _on_convolutions(folder, lambda layer: prune.l1_unstructured(layer, "weight", 0.4))


def weight_norm(folder: Path) -> LibraryFile:
    return _on_convolutions(folder, parametrizations.weight_norm)


def spectral_norm(folder: Path) -> LibraryFile:
    return _on_convolutions(folder, parametrizations.spectral_norm)


def fused(folder: Path) -> LibraryFile:
    network: nn.Module = fuse(of_torchvision("resnet18"))
    torch.save(network.state_dict(), folder / "fused.pt")
    return LibraryFile(
        folder / "fused.pt", scaled(network), MOBILENET.replace("mobilenet_v3_small", "resnet18"), "imagenet"
    )


# timm.

SMALL_OF_TIMM = "mobilenetv3_small_050"
TIMM = f"timm:model={SMALL_OF_TIMM},num_classes={CLASSES},height={SIDE},width={SIDE}"


def of_timm(seed: int = 0) -> nn.Module:
    import timm

    torch.manual_seed(seed)
    network: nn.Module = timm.create_model(SMALL_OF_TIMM, num_classes=CLASSES)
    return unlike_fresh(network, seed)


def timm_scaled(network: nn.Module) -> PixelsToLogits:
    """As timm's own configuration of the network says."""
    from timm.data.config import resolve_model_data_config

    values = resolve_model_data_config(network)
    mean, std = (torch.tensor(values[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return lambda x: network.eval()((x - mean) / std)


def timm_state_dict(folder: Path) -> LibraryFile:
    network = of_timm()
    torch.save(network.state_dict(), folder / "model.pth")
    return LibraryFile(folder / "model.pth", timm_scaled(network), TIMM, "imagenet")


def timm_saver(folder: Path, ema: bool = False) -> LibraryFile:
    from timm.utils.checkpoint_saver import CheckpointSaver
    from timm.utils.model_ema import ModelEmaV3

    network = of_timm()
    average = ModelEmaV3(network, decay=0.5) if ema else None
    optimizer = trained(network)
    if average is not None:
        average.update(network)
    arguments = argparse.Namespace(model=SMALL_OF_TIMM, lr=0.1, mean=None, output=str(folder))
    saver = CheckpointSaver(network, optimizer, arguments, average, checkpoint_dir=str(folder))
    saver.save_checkpoint(0, metric=71.5)
    kept = network if average is None else average.module
    return LibraryFile(folder / "model_best.pth.tar", timm_scaled(kept), TIMM, "imagenet")


def timm_folder(folder: Path) -> LibraryFile:
    import timm

    network = of_timm()
    hub = folder / "hub"
    hub.mkdir()
    timm.models.save_for_hf(network, str(hub), model_config={"num_classes": CLASSES}, safe_serialization=True)
    return LibraryFile(zipped(hub), timm_scaled(network), shape=(3, 224, 224))


# transformers.


def _vit(folder: Path) -> tuple[Any, Any]:
    import transformers

    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
    sizes: dict[str, Any] = heads | {"num_labels": CLASSES}
    config = transformers.ViTConfig(image_size=SIDE, patch_size=16, **sizes)
    torch.manual_seed(0)
    network = unlike_fresh(transformers.ViTForImageClassification(config), 3)
    processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    folder.mkdir()
    processor.save_pretrained(folder)
    return network, processor


def _half_scaled(network: Any) -> PixelsToLogits:
    return lambda x: network.eval()(pixel_values=(x - 0.5) / 0.5).logits


def transformers_folder(folder: Path) -> LibraryFile:
    network, _ = _vit(folder / "vit")
    network.save_pretrained(folder / "vit")
    return LibraryFile(zipped(folder / "vit"), _half_scaled(network))


def transformers_trainer(folder: Path) -> LibraryFile:
    """The folder of a checkpoint: optimizer, scheduler, random states and pickled arguments beside the network."""
    import transformers

    network, processor = _vit(folder / "vit")
    rows = [{"pixel_values": torch.rand(3, SIDE, SIDE), "labels": number % CLASSES} for number in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "run"), max_steps=2, per_device_train_batch_size=4, save_steps=2, report_to=[],
        use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(model=network, args=arguments, train_dataset=rows, processing_class=processor)
    trainer.train()
    return LibraryFile(zipped(folder / "run" / "checkpoint-2"), _half_scaled(network))


def accelerate_saved(folder: Path) -> LibraryFile:
    import accelerate

    network = of_torchvision()
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.save_model(accelerator.prepare(network), str(folder))
    return mobilenet(folder / "model.safetensors", network)


# lightning.


def _fitted(folder: Path, callbacks: list[Any]) -> tuple[Any, Any]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, lr: float = 1e-3, weights: tuple[float, ...] = (1.0, 2.0, 1.0, 1.0, 1.0)) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = of_torchvision()
            self.criterion = nn.CrossEntropyLoss(weight=torch.tensor(weights))

        def training_step(self, batch: Any, _: int) -> Tensor:
            images, labels = batch
            return self.criterion(self.model(images), labels)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), self.hparams["lr"])

    rows = [(torch.rand(3, SIDE, SIDE), number % CLASSES) for number in range(8)]
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=4))  # type: ignore[arg-type]
    return trainer, module


def lightning_checkpoint(folder: Path) -> LibraryFile:
    trainer, module = _fitted(folder, [])
    trainer.save_checkpoint(folder / "last.ckpt")
    return mobilenet(folder / "last.ckpt", module.model)


def lightning_averaged(folder: Path) -> LibraryFile:
    """With the average under state_dict and the last step's weights under current_model_state; kept while training runs."""
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    saver = ModelCheckpoint(dirpath=folder, filename="average", save_top_k=1, every_n_epochs=1)
    _, module = _fitted(folder, [EMAWeightAveraging(decay=0.5), saver])
    path = Path(saver.best_model_path)
    loaded = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    module.load_state_dict(loaded)
    return mobilenet(path, module.model)


def fabric_checkpoint(folder: Path) -> LibraryFile:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    network = of_torchvision()
    model, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), 0.1, momentum=0.9))
    fabric.save(folder / "fabric.ckpt", {"model": model, "optimizer": optimizer, "step": 7})
    return mobilenet(folder / "fabric.ckpt", network)


# Repositories.


def medmnist_example(folder: Path) -> LibraryFile:
    """What MedMNIST/experiments' train_and_eval_pytorch.py saves: ``{"net": ...}`` of a network of one channel, 28 x 28."""
    torch.manual_seed(0)
    network = unlike_fresh(ResNetOfBlocks(BasicBlock, 1, 8))
    torch.save({"net": network.state_dict()}, folder / "best_model.pth")
    given = "resnet18-cifar:channels=1,num_classes=8,height=28,width=28"
    return LibraryFile(folder / "best_model.pth", lambda x: network((x - 0.5) / 0.5), given, "0.5/0.5", (1, 28, 28))


def robustbench_like(folder: Path) -> LibraryFile:
    """As files of RobustBench's zoo are: DataParallel's names, mean and deviation among the tensors."""
    torch.manual_seed(0)
    network = unlike_fresh(Standardized())
    state = OrderedDict((f"module.{name}", value) for name, value in network.state_dict().items())
    torch.save({"state_dict": state, "epoch": 200}, folder / "model_cifar_pre.pt")
    return LibraryFile(folder / "model_cifar_pre.pt", network, "preact-resnet", shape=(3, 32, 32))


KINDS: dict[str, Callable[[Path], LibraryFile]] = {
    "torch.save of a state dict": state_dict,
    "torch.save as before torch 1.6": state_dict_before_1_6,
    "torch.save of a whole model": whole_model,
    "torch.save of float16 weights": half,
    "nn.DataParallel, with state_dict and best_acc1": data_parallel,
    "torch.compile": compiled,
    "torch.optim.swa_utils.AveragedModel": averaged,
    "torch.nn.utils.prune": pruned,
    "torch.nn.utils.parametrizations.weight_norm": weight_norm,
    "torch.nn.utils.parametrizations.spectral_norm": spectral_norm,
    "torch.fx fuse (folded batch norms)": fused,
    "torchvision references, with EMA": reference_checkpoint,
    "safetensors save_model": whole_safetensors,
    "timm state dict": timm_state_dict,
    "timm CheckpointSaver": timm_saver,
    "timm CheckpointSaver with ModelEmaV3": partial(timm_saver, ema=True),
    "timm save_for_hf": timm_folder,
    "transformers save_pretrained": transformers_folder,
    "transformers Trainer checkpoint": transformers_trainer,
    "accelerate save_model": accelerate_saved,
    "lightning Trainer.save_checkpoint": lightning_checkpoint,
    "lightning EMAWeightAveraging": lightning_averaged,
    "lightning Fabric.save": fabric_checkpoint,
    "MedMNIST experiments": medmnist_example,
    "RobustBench zoo": robustbench_like,
}
"""By what made the file."""
