"""NIP inside the network."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.defending.nip.inside import NeuronPool


class NIPNeurons(NeuronPool):
    """NIP_n (Chen et al. 2021, arXiv 2112.13060, appendix D): as NIP, but the neurons are changed instead of the image.

    The paper does not say what the inverse activation is. Our reading: v is 1 on the candidate's front neurons and -1 on its
    tail neurons, which is the gradient of the same objective by the layer, and the layer's output h becomes
    h + mean(h) v / (max v - min v).
    """

    title: ClassVar[str] = "NIP_n (our reading)"
    kind: Literal["nip-n"] = "nip-n"
