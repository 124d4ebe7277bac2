"""Certificate: proves that no perturbation within a threat model gives an attacker what they want."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.criterion import Criterion
from auditor.attacking.threat import Norm, ThreatModel
from auditor.certifying.bounds import rounding
from auditor.certifying.network import BoundableNetwork, NotProvable
from auditor.certifying.region import Region
from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.errors import SpecError
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset

PROVABLE = frozenset({Norm.LINF, Norm.L2, Norm.L1})

BATCH = 16
"""Images that are bounded at once: their relaxations stay in memory."""


class Proofs(NamedTuple):
    """``margin``: a lower bound of the smallest lead that the right class keeps anywhere in the region, float64 (N,);
    negative or not finite where nothing is proved. ``seconds``: of the whole."""

    margin: NDArray[np.float64]
    seconds: float

    @property
    def proved(self) -> NDArray[np.bool_]:
        """The samples that no attack within the threat model can fool, (N,)."""
        return np.isfinite(self.margin) & (self.margin > 0)


class Certificate(Capability):
    """A method that gives lower bounds of the logits' differences over a region. One per file in
    ``auditor.certifying.certificates``."""

    norms: ClassVar[frozenset[Norm]] = PROVABLE

    @abstractmethod
    def least(
        self, network: BoundableNetwork, region: Region, margins: list[Tensor], leave: Tensor, reach: Tensor
    ) -> Tensor:
        """Lower bounds of logit[leave] - logit[reach], (B, M), over the region of each image. ``margins``: see
        ``auditor.certifying.bounds.rounding``; ``leave``: int64 (B,); ``reach``: (B, M)."""


def certify(
    classifier: Classifier,
    certificate: Certificate,
    threat: ThreatModel,
    dataset: ImageDataset,
    ids: Sequence[int] | NDArray[np.int64],
    criterion: Criterion,
    *,
    network: BoundableNetwork | None = None,
    on_progress: OnProgress = no_progress,
) -> Proofs:
    """Bounds for these samples, in this order. ``criterion``: what the attacker wants of each, on the classifier's device.

    A sample is proved where the class that must fall stays above every class that would do, at every point of the region:
    in exact arithmetic on the weights as they are, with what double precision can lose taken off. Raises NotProvable
    (an EvaluationError) for a network with an operation that no bound passes through, SpecError for L0.
    """
    if threat.norm not in certificate.norms:
        known = ", ".join(sorted(norm.symbol for norm in certificate.norms))
        raise SpecError(
            f"The certificate {certificate.kind} knows {known}, not {threat.norm.symbol}.",
            "Leave it out for this norm.",
        )
    threat.check(classifier.input_shape)
    started, ids = time.monotonic(), np.asarray(ids, np.int64)
    network = network or BoundableNetwork(classifier)
    margins = rounding(network)
    found = np.full(len(ids), -np.inf)
    for at in range(0, len(ids), BATCH):
        part = slice(at, at + BATCH)
        images = dataset.images(ids[part]).to(network.device, torch.double)
        rows = torch.arange(at, at + len(images), device=network.device)
        with torch.no_grad():
            logits = network(images)
            wanted = criterion[rows]
            least = certificate.least(
                network, Region(threat, images), margins, wanted.leave(logits), wanted.reach(logits)
            )
        lowest = least.amin(1)
        found[part] = torch.where(lowest.isfinite(), lowest, -torch.inf).cpu().numpy()
        on_progress(min(1.0, (at + BATCH) / len(ids)), certificate.display_title())
    return Proofs(found, time.monotonic() - started)


CERTIFICATES: Catalog[Certificate] = Catalog(
    "auditor.certifying.certificates", Certificate, entry_points=plugins.CERTIFICATES
)

__all__ = ["CERTIFICATES", "Certificate", "NotProvable", "Proofs", "certify"]
