"""Room for rounding at the edge of a ball."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from auditor.attacking.attack import Rows
from auditor.attacking.threat import Norm


def slack(rows: Rows) -> Tensor:
    """Room for the float32 rounding of x + delta, (B,)."""
    if rows.norm is Norm.L0:
        return torch.zeros_like(rows.epsilon)
    per_entry = {Norm.LINF: 1.0, Norm.L2: float(np.sqrt(rows.x[0].numel())), Norm.L1: float(rows.x[0].numel())}
    return 1e-5 * rows.epsilon + 1e-7 * per_entry[rows.norm]
