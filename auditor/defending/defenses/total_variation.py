"""Total variance minimization."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Backward, ImageDefense
from auditor.models.defended import Passing

Array = NDArray[np.float64]

TINY = 1e-6
"""Norms below this count as this in the derivative, which has none at zero."""


class TotalVarianceMinimization(ImageDefense):
    """Total variance minimization (Guo et al. 2018, arXiv 1711.00117): a smooth image that agrees with random pixels.

    For each channel x, with a mask M that keeps a pixel with probability ``kept``, some steps of L-BFGS-B from x towards the
    minimum over z of

        || M (z - x) ||_2 + weight (sum over rows of || z_{r+1} - z_r ||_2 + sum over columns of the same).

    The Adversarial Robustness Toolbox minimizes the same with a derivative of the second part that is twice too large, which
    misleads the line search (``art_gradient``). The adaptive attacker averages over masks and ignores the minimization
    backwards.
    """

    title: ClassVar[str] = "Total variance minimization"
    kind: Literal["tvm"] = "tvm"
    random: ClassVar[bool] = True
    backward: ClassVar[Backward] = "identity"
    kept: float = Field(0.5, gt=0, le=1, description="Probability of keeping a value.")
    weight: float = Field(0.1, gt=0, le=10, description="Weight of the total variation.")
    steps: int = Field(10, ge=1, le=1000, description="Steps of L-BFGS-B.")
    art_gradient: bool = Field(False, description="Use the wrong derivative of the Adversarial Robustness Toolbox.")

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        masks = (passing.random.uniform(x) < self.kept).double().cpu().numpy()
        images = x.detach().double().cpu().numpy()
        smooth = np.stack([self.minimized(image, mask) for image, mask in zip(images, masks, strict=True)])
        return torch.from_numpy(smooth).to(x)

    def minimized(self, image: Array, mask: Array) -> Array:
        """One image (C, H, W) after the steps, with its mask of ones and zeros."""
        slope = 2.0 if self.art_gradient else 1.0
        found = [
            scipy.optimize.minimize(
                objective, channel.ravel(), (channel, kept, self.weight, slope),
                jac=True, method="L-BFGS-B", options={"maxiter": self.steps},
            ).x.reshape(channel.shape)
            for channel, kept in zip(image, mask, strict=True)
        ]  # fmt: skip
        return np.stack(found)


def objective(z: Array, x: Array, mask: Array, weight: float, slope: float = 1.0) -> tuple[float, Array]:
    """The number to minimize and its derivative, (H * W,); ``slope`` multiplies the derivative of the total variation."""
    z = z.reshape(x.shape)
    apart = mask * (z - x)
    down, right = z[1:] - z[:-1], z[:, 1:] - z[:, :-1]
    far = float(np.linalg.norm(apart))
    rows, columns = np.linalg.norm(down, axis=1, keepdims=True), np.linalg.norm(right, axis=0, keepdims=True)
    gradient: Array = apart / max(far, TINY)
    along_rows, along_columns = (
        slope * weight * step / np.maximum(length, TINY) for step, length in ((down, rows), (right, columns))
    )
    gradient[1:] += along_rows
    gradient[:-1] -= along_rows
    gradient[:, 1:] += along_columns
    gradient[:, :-1] -= along_columns
    return float(far + weight * (rows.sum() + columns.sum())), gradient.ravel()
