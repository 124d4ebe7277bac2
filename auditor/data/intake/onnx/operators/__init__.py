"""The operators of ONNX that become steps: one function each. What is not in OPERATORS is refused by its name."""

from __future__ import annotations

from auditor.data.intake.onnx.operators import activations, arithmetic, layers, pools, shapes
from auditor.data.intake.onnx.operators.given import OPERATORS

__all__ = ["OPERATORS", "activations", "arithmetic", "layers", "pools", "shapes"]
