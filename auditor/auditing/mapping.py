"""A second way to match the tensors of a file: the accuracy on data tells which of the two is right."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from auditor.attacking.evaluation import clean_pass
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset


def compare_mappings(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    other: Mapping[str, str],
    batch_size: int,
) -> tuple[tuple[str, ...], list[Flag]]:
    """The accuracy of the network, and with its tensors in the ``other`` way (name -> the one whose tensor it gets), on the same
    images: as a note, and as a flag where the other way is better.
    """
    network = copy.deepcopy(classifier.network)
    tensors = network.state_dict()
    network.load_state_dict({name: tensors[other.get(name, name)].clone() for name in tensors})
    second = classifier.with_network(network)
    labels = dataset.labels[ids]
    here, there = (
        Rate.of(clean_pass(one, dataset, ids, batch_size=batch_size, draws=1).prediction == labels)
        for one in (classifier, second)
    )
    lead = 100 * (here.hits - there.hits) / max(1, here.n)
    numbers = f"{here} as it is stored, {there} in the other way, on the same {here.n:,} images"
    if lead >= 0:
        return (
            f"The tensors of the file fit in two ways. Accuracy: {numbers}; this one leads by {lead:.1f} points.",
        ), []
    flag = Flag(
        name="mapping",
        severity="severe",
        message="The tensors of the file fit in two ways, and the other one classifies more images correctly.",
        evidence=f"accuracy {numbers}: the other way leads by {-lead:.1f} points",
        remedy="Add the file again with the other mapping: `--mapping 2` on the command line, 'Mapping' on the page (or 1, where "
        "2 was chosen).",
    )
    return (), [flag]
