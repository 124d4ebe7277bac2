"""What the published code of NIP does with its two oracles, to reproduce the published level and for nothing else.

No classifier can do this: it needs the clean twin of each adversarial image, and knows the right answer. It therefore is no
defense of the catalogue, cannot be attacked, and feeds no headline.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from auditor.defending.nip.candidates import ObservedLayer, inverse_perturbations, predicted_influence
from auditor.kit.randomness import RowRandom
from auditor.models.classifier import Classifier
from auditor.neural.influence.influence import split_parts


class PublishedCode(BaseModel):
    """x' = twin + s rho / rms(rho), as in the code (github.com/Allen-piexl/NIP-Neuron-level-Inverse-Perturbation).

    ``pair_oracle``: rho is computed at the clean twin of the very image; else at the image itself. ``sign_oracle``: where x'
    is not given the clean image's class, twin - s rho / rms(rho) is tried. ``direction`` "random" puts Gaussian noise in place
    of rho: the control.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: float = Field(
        0.001, ge=0, le=1, description="Root mean square of the step; 0.001 for CIFAR-10, 0.008 for ImageNet."
    )
    front: int = Field(5, ge=1, description="Front neurons.")
    tail: int = Field(5, ge=1, description="Tail neurons.")
    pair_oracle: bool = Field(True, description="Take rho at the clean twin.")
    sign_oracle: bool = Field(True, description="Try the other sign where the answer is wrong.")
    direction: Literal["influence", "random"] = Field("influence", description="The gradient, or noise (control).")

    def restored(self, classifier: Classifier, x: Tensor, twins: Tensor, samples: Tensor, seed: int) -> Tensor:
        """Which adversarial ``twins`` (B, C, H, W) of the clean ``x`` get the clean image's class back, bool (B,).

        ``samples``: ids, (B,), which random directions belong to.
        """
        step = self._direction(classifier, x, twins, samples, seed)
        step = self.size * step / step.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        wanted = classifier.logits(x).argmax(1)
        right = [classifier.logits((twins + sign * step).clamp(0, 1)).argmax(1) == wanted for sign in (1, -1)]
        return right[0] | right[1] if self.sign_oracle else right[0]

    def _direction(self, classifier: Classifier, x: Tensor, twins: Tensor, samples: Tensor, seed: int) -> Tensor:
        if self.direction == "random":
            return RowRandom(seed, "published code", [(sample,) for sample in samples.tolist()]).normal(x)
        place, points = ObservedLayer.of(classifier, ""), x if self.pair_oracle else twins
        parts = split_parts(predicted_influence(classifier, place, points).influence, self.front, self.tail)
        return inverse_perturbations(classifier, place, points, parts, literal_sign=False)


def label(code: PublishedCode) -> str:
    """How a row of it is called."""
    oracles = [name for name, given in (("clean twin", code.pair_oracle and code.direction == "influence"),
                                        ("right answer", code.sign_oracle)) if given]  # fmt: skip
    what = "published code" if code.direction == "influence" else "random direction"
    knows = f", knows the {' and the '.join(oracles)}" if oracles else ""
    return f"{what}, size {code.size:g}{knows} (reproduction only)"


def levels() -> tuple[PublishedCode, ...]:
    """The two sizes of the published code, each with a random direction that has the same knowledge."""
    return tuple(
        PublishedCode(size=size, direction=direction)
        for size in (0.001, 0.008)
        for direction in get_args(PublishedCode.model_fields["direction"].annotation)
    )
