"""Neuron-level inverse perturbation."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.defending.nip.pool import PerturbationPool


class NIP(PerturbationPool):
    """Neuron-level inverse perturbation (Chen et al. 2021, arXiv 2112.13060): the image plus a perturbation made for another.

    From benign training images: front and tail neurons by influence, the template of those that remain, and for each image a
    candidate, the gradient that raises its front and lowers its tail neurons. An unknown image gets the candidate whose
    similarity to the template is nearest to its own, added at the size of its mean, cut to [0, 1]. It sees no label and no
    clean twin, unlike the published code. The adaptive attacker takes the choice of the candidate as constant.
    """

    title: ClassVar[str] = "NIP"
    kind: Literal["nip"] = "nip"
