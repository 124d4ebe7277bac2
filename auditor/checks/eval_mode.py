"""Layers that behave differently in training."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from auditor.check import Check
from auditor.flag import Flag, Opinion
from auditor.inquiry import Inquiry


class EvalMode(Check):
    """Every layer is in evaluation mode, and batch normalisation has statistics of its own."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Evaluation mode"
    kind: Literal["eval_mode"] = "eval_mode"

    def run(self, inquiry: Inquiry) -> Opinion:
        layers = [(name, layer) for name, layer in inquiry.classifier.named_modules() if _differs_in_training(layer)]
        training = [name for name, layer in layers if layer.training]
        homeless = [name for name, layer in layers if isinstance(layer, _BatchNorm) and layer.running_mean is None]
        evidence = (
            f"{len(layers)} layers behave differently in training; {len(training)} are in training mode, {len(homeless)} "
            "normalise by the batch at hand"
        )
        if not training and not homeless:
            return Opinion(evidence)
        named = ", ".join([*training, *homeless][:3])
        flag = Flag(
            name="training mode",
            severity="severe",
            message="Layers of the model are not in evaluation mode.",
            evidence=f"{evidence} ({named})",
            remedy="Put the network into evaluation mode and give its batch normalisation running statistics.",
        )
        return Opinion(evidence, (flag,))


def _differs_in_training(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm | _DropoutNd)
