"""Layers that behave differently in training."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Flag, Opinion


class EvalMode(Check):
    """Every layer is in evaluation mode, and batch normalization has running statistics."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Evaluation mode"
    kind: Literal["eval_mode"] = "eval_mode"

    def cost(self, allowance: Allowance) -> float:
        return int(allowance.random)

    def run(self, inquiry: Inquiry) -> Opinion:
        layers = [(name, layer) for name, layer in inquiry.classifier.named_modules() if _differs_in_training(layer)]
        training = [name for name, layer in layers if layer.training]
        homeless = [name for name, layer in layers if isinstance(layer, _BatchNorm) and layer.running_mean is None]
        evidence = (
            f"{len(layers)} layers behave differently in training; {len(training)} are in training mode, {len(homeless)} "
            "normalize by the current batch"
        )
        if not training and not homeless:
            return Opinion(evidence)
        named = ", ".join([*training, *homeless][:3])
        dropping = [layer for _, layer in layers if layer.training and isinstance(layer, _DropoutNd)]
        if len(dropping) == len(training) and not homeless and _of_its_own_accord(inquiry, dropping):
            flag = Flag(
                name="dropout at inference",
                severity="warning",
                message="The network applies dropout at inference.",
                evidence=f"{evidence} ({named})",
                remedy="If this is intended (a defense, Monte Carlo dropout), the numbers are right: they are means "
                "over draws. Otherwise remove the code in the forward pass that puts these layers into training "
                "mode.",
            )
            return Opinion(evidence, (flag,))
        flag = Flag(
            name="training mode",
            severity="severe",
            message="Layers of the model are not in evaluation mode.",
            evidence=f"{evidence} ({named})",
            remedy="Put the network into evaluation mode and give its batch normalization running statistics.",
        )
        return Opinion(evidence, (flag,))


def _of_its_own_accord(inquiry: Inquiry, layers: list[_DropoutNd]) -> bool:
    """Whether the network's forward pass puts these layers into training mode, as for Monte Carlo dropout."""
    if not inquiry.classifier.random:
        return False
    for layer in layers:
        layer.training = False
    inquiry.classifier.logits(inquiry.images(1)[0])
    back = all(layer.training for layer in layers)
    for layer in layers:
        layer.training = True
    return back


def _differs_in_training(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm | _DropoutNd)
