"""Makes the shipped sample anew: parts of Fashion-MNIST's images, and two small networks trained on all its training images.

    python -m auditor.data.samples.make --train TRAIN --test TEST --out FOLDER

TRAIN and TEST are ``.npz`` files with images (N, 28, 28) uint8 and labels; or give ``--root FOLDER`` for the files that
``torchvision.datasets.FashionMNIST`` reads. On two CPU cores the plain network takes minutes, the robust one about an hour.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from auditor.data.samples import ARCHITECTURE, CLASS_NAMES, EPSILON, SAMPLES, TRAINING_SAMPLES

SEED = 0
BATCH = 128

Split = tuple[NDArray[np.uint8], NDArray[np.int64]]


def main() -> None:
    """Read the command line, write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--root", type=Path, help="folder of torchvision's FashionMNIST, instead of the two files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--robust-epochs", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.root is None and (arguments.train is None or arguments.test is None):
        parser.error("give --train and --test, or --root")
    train, test = read(arguments.root, arguments.train, arguments.test)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_images(*test, SAMPLES, arguments.out / "fashion-mnist-test.npz")
    write_images(*train, TRAINING_SAMPLES, arguments.out / "fashion-mnist-train.npz")
    for name, epochs, steps in (("plain", arguments.epochs, 0), ("robust", arguments.robust_epochs, 7)):
        network = fit(*train, epochs=epochs, steps=steps)
        save(network, arguments.out / f"fashion-{name}.safetensors")
        images, labels = as_tensors(test[0][:SAMPLES], test[1][:SAMPLES])
        clean = accuracy(network, images, labels)
        robust = accuracy(network, perturbed(network, images, labels, steps=10, step_size=EPSILON / 4), labels)
        print(f"{name}: clean {clean:.3f}, PGD-10 at {EPSILON} {robust:.3f}, on the {SAMPLES} shipped images")


def read(root: Path | None, train: Path | None, test: Path | None) -> tuple[Split, Split]:
    """Training and test images (N, 28, 28) uint8 with their labels (N,)."""
    if root is not None:
        from torchvision.datasets import FashionMNIST

        first, second = (FashionMNIST(str(root), train=part) for part in (True, False))
        return (first.data.numpy(), first.targets.numpy()), (second.data.numpy(), second.targets.numpy())
    parts = []
    for path in (train, test):
        assert path is not None
        with np.load(path, allow_pickle=False) as arrays:
            parts.append((arrays["images"].reshape(-1, 28, 28), arrays["labels"].astype(np.int64)))
    return parts[0], parts[1]


def write_images(images: NDArray[np.uint8], labels: NDArray[np.int64], count: int, path: Path) -> None:
    """The first images, with their class names."""
    np.savez_compressed(path, images=images[:count], labels=labels[:count], class_names=np.array(CLASS_NAMES))


def fit(images: NDArray[np.uint8], labels: NDArray[np.int64], *, epochs: int, steps: int) -> nn.Module:
    """Train the sample architecture; with ``steps`` > 0 on PGD images (Madry et al. 2018), else on clean ones."""
    torch.manual_seed(SEED)
    network = ARCHITECTURE.build()
    x, y = as_tensors(images, labels)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    per_epoch = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * per_epoch, pct_start=0.2)
    for epoch in range(epochs):
        began, losses = time.perf_counter(), []
        order = torch.randperm(len(x))
        for batch in order[: per_epoch * BATCH].split(BATCH):
            inputs, targets = augmented(x[batch]), y[batch]
            if steps:
                inputs = perturbed(network, inputs, targets, steps=steps, step_size=2.5 * EPSILON / steps)
            network.train()
            loss = cross_entropy(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(
            f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.3f}, {time.perf_counter() - began:.0f} s", flush=True
        )
    return network.eval()


def perturbed(network: nn.Module, x: Tensor, y: Tensor, *, steps: int, step_size: float) -> Tensor:
    """L∞ PGD from a random start, in eval mode."""
    network.eval()
    points = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for _ in range(steps):
        points.requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(network(points), y, reduction="sum"), points)
        points = points.detach() + step_size * gradient.sign()
        points = (x + (points - x).clamp(-EPSILON, EPSILON)).clamp(0, 1)
    return points.detach()


def augmented(x: Tensor) -> Tensor:
    """Flipped left to right for half of the images, and moved by up to two pixels."""
    flip = torch.rand(len(x)) < 0.5
    x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
    down, right = (int(value) for value in torch.randint(0, 5, (2,)))
    return pad(x, (2, 2, 2, 2))[:, :, down : down + 28, right : right + 28]


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    with torch.no_grad():
        return float((network(x).argmax(1) == y).double().mean())


def as_tensors(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).unsqueeze(1).float() / 255, torch.from_numpy(labels)


def save(network: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


if __name__ == "__main__":
    main()
