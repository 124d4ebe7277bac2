"""CROWN here beside auto_LiRPA's, sample by sample and in CPU seconds, on the same images in turn.

    python -m benchmarks.certificates --shared ../shared --peer CHECKOUT --write docs/benchmarks-certificates.md

``--peer``: a checkout of Verified-Intelligence/auto_LiRPA whose imports this interpreter finds (it asks for an older torch than
ours, so it is no dependency). It is asked image by image: in a batch it treats a neuron alike for all images, so that an
image's bound depends on the others (seen: up to 0.0013 lower).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.attacking.criterion import Misclassification
from auditor.attacking.threat import ThreatModel, show_epsilon
from auditor.certifying.certificate import CERTIFICATES, certify
from auditor.kit.provenance import versions
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset


class Case(NamedTuple):
    name: str
    file: str
    data: str
    shape: tuple[int, int, int]
    widths: tuple[int, int, int]
    normalization: str
    epsilon: float
    images: int


FASHION = ("fashion-certified-0.1.pth", "fashion-mnist-test.npz", (1, 28, 28), (16, 32, 1568), "none")
CNN_A = ("cnn-a-adversarially-trained.pt", "cifar10-test.npz", (3, 32, 32), (16, 32, 2048), "cifar10-loose")
CASES = (
    Case("Fashion certified", *FASHION, 0.05, 100),
    Case("Fashion certified", *FASHION, 0.1, 200),
    Case("cnn-a", *CNN_A, 1 / 255, 200),
)


def loaded(case: Case, shared: Path) -> tuple[Classifier, ImageDataset]:
    first, second, features = case.widths
    network = nn.Sequential(
        nn.Conv2d(case.shape[0], first, 4, 2, 1), nn.ReLU(), nn.Conv2d(first, second, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(features, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    network.load_state_dict(torch.load(shared / "weights" / case.file, weights_only=True, map_location="cpu"))
    held = np.load(shared / "data" / case.data)
    pixels = held["images"][: case.images]
    dataset = ImageDataset(pixels.reshape(*pixels.shape[:3], -1), held["labels"][: case.images].astype(np.int64))
    normalization = NORMALIZATIONS[case.normalization]
    return Classifier(network, input_shape=case.shape, num_classes=10, normalization=normalization), dataset


def timed(act: Callable[[], NDArray[np.float64]]) -> tuple[NDArray[np.float64], float]:
    before = time.process_time()
    return act(), time.process_time() - before


def ours(case: Case, classifier: Classifier, dataset: ImageDataset, kind: str) -> NDArray[np.float64]:
    goal = Misclassification(torch.from_numpy(dataset.labels))
    ids = np.arange(case.images)
    return certify(classifier, CERTIFICATES.parse(kind), ThreatModel(epsilon=case.epsilon), dataset, ids, goal).margin


def theirs(case: Case, classifier: Classifier, dataset: ImageDataset) -> NDArray[np.float64]:
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # type: ignore[import-not-found]

    images = dataset.images(np.arange(case.images)).float()
    normalize: Callable[[Tensor], Tensor] = classifier.normalize
    bounded: Any = BoundedModule(classifier.network, images[:1])
    found = []
    for x, label in zip(images.split(1), dataset.labels, strict=True):
        low, high = (x - case.epsilon).clamp(0, 1), (x + case.epsilon).clamp(0, 1)
        region = PerturbationLpNorm(norm=np.inf, x_L=normalize(low), x_U=normalize(high))
        others = torch.arange(10) != label
        rows = (torch.eye(10)[label] - torch.eye(10))[others][None]
        point = BoundedTensor(normalize(x), region)
        found.append(bounded.compute_bounds(x=(point,), C=rows, method="CROWN", bound_upper=False)[0].min().item())
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with weights/ and data/")
    parser.add_argument("--peer", type=Path, help="checkout of auto_LiRPA")
    parser.add_argument("--write", type=Path, help="file to write; default: print")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peer is not None:
        sys.path.insert(0, str(options.peer))
    rows = []
    for case in CASES:
        classifier, dataset = loaded(case, options.shared)
        with torch.no_grad():
            right = int((classifier(dataset.images(np.arange(case.images))).argmax(1).numpy() == dataset.labels).sum())
        crown, seconds = timed(lambda: ours(case, classifier, dataset, "crown"))  # noqa: B023
        cells = [case.name, show_epsilon(case.epsilon), str(case.images), str(right), str(int((crown > 0).sum()))]
        if options.peer is not None:
            peer, other = timed(lambda: theirs(case, classifier, dataset))  # noqa: B023
            cells += [
                str(int((peer > 0).sum())), f"{np.abs(crown - peer).max():.1e}", f"{seconds / case.images:.3f}",
                f"{other / case.images:.3f}", f"{seconds / other:.2f}",
            ]  # fmt: skip
        else:
            cells += ["", "", f"{seconds / case.images:.3f}", "", ""]
        cells += [
            str(int((ours(case, classifier, dataset, kind) > 0).sum())) for kind in ("crown-ibp", "interval-bounds")
        ]
        rows.append(cells)
    head = [
        "network", "ε (L∞)", "images", "right", "proved", "by auto_LiRPA", "largest difference of a bound",
        "CPU s per image", "of auto_LiRPA", "ratio", "proved by CROWN-IBP", "by intervals",
    ]  # fmt: skip
    text = "\n".join(
        [
            "# Benchmark of certificates", "",
            f"Python {versions()['python']}, torch {versions()['torch']}, one thread. Made by `benchmarks/certificates.py`.", "",
            f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), "",
            "auto_LiRPA at commit a050a3d (2026-05-27), method CROWN, single precision, image by image. In batches of 16 its "
            "bounds of the Fashion network are up to 0.0013 lower, since it treats a neuron alike for all images of a batch.", "",
        ]
    )  # fmt: skip
    if options.write:
        options.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
