"""Which images excite a neuron most, and what the attack makes of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, measured_layer
from auditor.neural.figures import layer_lines
from auditor.neural.found import OfPairs, table
from auditor.neural.probes.exemplars import Excitation, Exemplars, ExemplarSearch
from auditor.show.blocks import AnyBlock, Text


class LayerExemplars(OfPairs):
    """The images that excite neurons, layer by layer, and the excitation by their twins."""

    layers: tuple[Exemplars, ...]


class NeuronExemplars(Analysis[LayerExemplars]):
    """The images that excite each layer's most changed neurons, and the excitation that is left under attack.

    A neuron's excitation by an image is the largest (or mean) value of its output map (Zeiler and Fergus 2014, arXiv 1311.2901,
    section 4.1, show the images with the largest activations in the same way).
    """

    title: ClassVar[str] = "Images that excite neurons"
    heading: ClassVar[str] = "What excites the neurons"
    passes: ClassVar[float] = 2.0
    kind: Literal["neuron_exemplars"] = "neuron_exemplars"
    excitation: Excitation = Field(
        "max", description="A neuron's excitation by an image: the largest value of its map, or the mean."
    )
    images: int = Field(4, ge=1, le=32, description="Images for each neuron.")
    neurons: int = Field(
        16, ge=1, le=512, description="Maximum neurons of each layer; those that change most are kept."
    )

    def find(self, subject: Subject) -> LayerExemplars:
        search = ExemplarSearch(subject.classifier, self.excitation, self.images)
        for pair in self.each(subject):
            search.add(pair)
        return LayerExemplars(images=search.seen, pairs=subject.pairs_from, layers=search.found(self.neurons))

    def blocks(self, found: LayerExemplars) -> Iterator[AnyBlock]:
        yield Text(
            text=f"For each layer's most changed neurons (at most {self.neurons}), the {self.images} of {found.images} clean "
            f"images that excite it most, and its excitation by their twins: {found.pairs}. The Neurons page shows the images."
        )
        yield layer_lines(
            "Excitation that is left under attack",
            [
                {"layer": row.name, "depth": depth, "kind": row.kind, "neurons": len(row.change), "kept": row.kept}
                for depth, row in enumerate(found.layers, 1)
            ],
            {"kept": "most changed neurons"},
            "attacked / clean excitation, median",
            reading="1: the images that excite a neuron most still do so under attack. 0: the attack has switched it off. "
            "Layers whose excitation is not positive are left out.",
            select="layer",
        )

    def detail(self, found: LayerExemplars, path: tuple[str, ...]) -> Iterator[AnyBlock]:
        """A layer's neurons with the samples that excite them."""
        for layer in (item for item in found.layers if item.name == path[0]):
            yield table(
                layer.rows,
                "neuron", "change", "clean", "attacked", "samples",
                title=f"Most changed neurons of {layer.name}",
            )  # fmt: skip

    def neuron_measures(self, found: LayerExemplars) -> Iterator[NeuronMeasure]:
        yield NeuronMeasure(
            "change", "Change of excitation", "mean |Δ excitation|",
            "Large: the attack changes how strongly the neuron is excited.", "with exciting images kept",
            tuple(measured_layer(layer.name, layer.kind, layer.change, layer.neurons) for layer in found.layers),
        )  # fmt: skip
