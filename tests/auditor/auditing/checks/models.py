"""Models that mislead an evaluation, attacks that are not what they are called, and an audit with a single check."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from auditor.attacking.attack import Query, Rows
from auditor.attacking.attacks.pgd import PGD
from auditor.auditing import audit
from auditor.auditing.check import CHECKS
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.kit.flag import CheckResult, Flag
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from tests.nets import SHAPE, labelled, small_cnn

EPSILON = 0.1


class Wrapped(nn.Module):
    """Something around a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class Quantized(Wrapped):
    """Rounds its input, so that the gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 32).round() / 32)


class Cut(Wrapped):
    """Rounds its input to whole numbers, as a file does, so that there is no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 32).to(torch.int32).float() / 32)


class Saturated(Wrapped):
    """A steep sigmoid before the last layer."""

    def __init__(self, network: nn.Module, classes: int = 5) -> None:
        super().__init__(network)
        self.last = nn.Linear(classes, classes, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(10 * torch.eye(classes))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        middle = logits.topk(2, dim=1).values.mean(1, keepdim=True)
        return self.last(torch.sigmoid(1e4 * (logits - middle)))


class Probabilities(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(1)


class Squashed(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).sigmoid()


class Noisy(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.3 * torch.randn_like(x))


class Coupled(Wrapped):
    """Normalizes by the batch, as batch normalization left in training mode does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x - 0.5 * x[:1])


class Shattered(Wrapped):
    """Logits that jump from one float to the next."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return logits + 3 * torch.sin(1e6 * x.flatten(1)[:, : logits.shape[1]])


class Dynamic(Wrapped):
    """Takes a gradient step on its input before it answers."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            points = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.network(points).amax(1).sum(), points)
        return self.network(x + 1e-3 * gradient)


def made(network: nn.Module, classes: int = 5) -> Classifier:
    return Classifier(network, input_shape=SHAPE, num_classes=classes, normalization=NORMALIZATIONS["half"])


def plain() -> nn.Module:
    return small_cnn()


class Noise(PGD):
    """Random noise, called PGD; it asks for a gradient and does not use it."""

    def step(self, rows: Rows, query: Query) -> Tensor:
        query.gradient()
        return rows.ball.sample(rows.x, rows.random("noise"))


class Unasked(PGD):
    """Random noise, called PGD; it does not even ask for a gradient."""

    def step(self, rows: Rows, query: Query) -> Tensor:
        query.logits()
        return rows.ball.sample(rows.x, rows.random("noise"))


class Timid(PGD):
    """PGD that never goes further than 0.02 from the image."""

    def step(self, rows: Rows, query: Query) -> Tensor:
        moved = super().step(rows, query)
        return rows.x + (moved - rows.x).clamp(-0.02, 0.02)


class Sleepy(PGD):
    """PGD that stands still in its first run."""

    def start(self, rows: Rows, query: Query) -> Tensor:
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        first = torch.from_numpy(rows.restart == 0).view(-1, 1, 1, 1)
        return torch.where(first, rows.x, super().step(rows, query))


class Fickle(PGD):
    """PGD that stands still when it may go further than 0.15."""

    def start(self, rows: Rows, query: Query) -> Tensor:
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        proposal = super().step(rows, query)
        return torch.where(rows.ball.epsilon <= 0.15, proposal, rows.x)


class Examined(NamedTuple):
    verdict: CheckResult
    flags: tuple[Flag, ...]
    result: AuditResult

    @property
    def said(self) -> dict[str, str]:
        return {flag.name: flag.severity for flag in self.flags}


def examine(
    kind: str,
    classifier: Classifier,
    *attacks: Any,
    data: ImageDataset | None = None,
    settings: dict[str, Any] | None = None,
    **spec: Any,
) -> Examined:
    """An audit with this check alone; by default with PGD on random images, which the model labelled itself."""
    data = data if data is not None else labelled(classifier, n=60, wrong=0)
    values: dict[str, Any] = {
        "threats": [{"epsilon": EPSILON}],
        "attacks": list(attacks) or [PGD()],
        "checks": [CHECKS.build(kind, settings or {})],
        "analyses": [],
        "curve": [],
        "curve_to_zero": False,
        "samples": None,
    }
    result = audit.run(AuditSpec.load(values | spec), classifier, data)
    # Attacks that tests define are foreign code, and said to be: that is not the check's doing.
    doubts = tuple(flag for flag in result.flags if flag.name != "foreign_code")
    return Examined(result.checks[0], doubts, result)
