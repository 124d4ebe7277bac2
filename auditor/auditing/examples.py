"""Adversarial examples of one attack: kept in shards of bounded size, read back one by one, exported as one .npz file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auditor.attacking.harness.outcome import Finished
from auditor.attacking.records import AttackRecord
from auditor.auditing.result import AuditResult
from auditor.kit.errors import NotFoundError
from auditor.models.dataset import ImageDataset

SHARD_BYTES = 32 << 20
"""Largest size of one shard: 2,730 images of CIFAR's size."""


def kept_positions(result: AuditResult, record: AttackRecord) -> NDArray[np.int64]:
    """The entries of the sample table whose image under this attack is kept, ascending."""
    if record.role != "headline":
        return np.zeros(0, np.int64)
    return first_positions(np.array(record.positions, np.int64), result.spec.examples)


def first_positions(positions: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Those among the first ``limit`` entries of the sample table (all when None)."""
    return positions if limit is None else positions[positions < limit]


class ExampleWriter:
    """Writes the final images of one attack into ``folder``: .npy files of float32 (n, C, H, W), in the order of the samples.

    ``positions``: which entries of the sample table are kept, ascending. What lies in the files does not depend on the order
    in which samples finish, so the batch size does not matter.
    """

    def __init__(self, folder: Path, record: int, positions: NDArray[np.int64], shape: tuple[int, int, int]) -> None:
        self._positions, self._shape = positions, shape
        self._per_shard = images_per_shard(shape)
        self._files = [folder / shard_name(record, index) for index in range(-(-len(positions) // self._per_shard))]
        for index, file in enumerate(self._files):
            count = min(self._per_shard, len(positions) - index * self._per_shard)
            np.lib.format.open_memmap(file, "w+", np.float32, (count, *shape)).flush()

    def add(self, finished: Finished) -> None:
        """Write those of these samples that are kept."""
        kept = np.isin(finished.position, self._positions)
        places = np.searchsorted(self._positions, finished.position[kept])
        images = finished.x_adv.float().cpu().numpy()[kept]
        for shard in np.unique(places // self._per_shard).tolist():
            mine = places // self._per_shard == shard
            images_of_shard = np.load(self._files[shard], mmap_mode="r+")
            images_of_shard[places[mine] % self._per_shard] = images[mine]
            images_of_shard.flush()


def images_per_shard(shape: tuple[int, ...]) -> int:
    return max(1, SHARD_BYTES // (4 * int(np.prod(shape))))


def shard_prefix(record: int) -> str:
    """How the names of all shards of a result's attack begin."""
    return f"examples-{record:03d}-"


def shard_name(record: int, index: int) -> str:
    return f"{shard_prefix(record)}{index:05d}.npy"


class Examples:
    """The kept images of one attack of a result. ``files``: the shards' paths by their names (see ``shard_name``)."""

    def __init__(self, result: AuditResult, record: int, files: Mapping[str, Path]) -> None:
        self.result, self.record = result, result.records[record]
        self.positions = kept_positions(result, self.record)
        self._shape = result.provenance.model.input_shape
        self._per_shard = images_per_shard(self._shape)
        names = [shard_name(record, index) for index in range(-(-len(self.positions) // self._per_shard))]
        missing = [name for name in names if name not in files]
        if missing:
            raise NotFoundError(f"The adversarial examples {missing[0]} were not kept.", "Run the audit again.")
        self._files = [files[name] for name in names]

    def image(self, position: int) -> NDArray[np.float32] | None:
        """The final image of an entry of the sample table, (C, H, W); None where it is not kept."""
        place = int(np.searchsorted(self.positions, position))
        if place == len(self.positions) or self.positions[place] != position:
            return None
        shard = np.load(self._files[place // self._per_shard], mmap_mode="r")
        return np.array(shard[place % self._per_shard])

    def export(self, dataset: ImageDataset, file: Path) -> None:
        """Write one .npz for ``numpy.load``, image by image, so memory does not grow with their number.

        ``x_adv`` and ``x``: adversarial and clean images, float32 (N, C, H, W) in [0, 1]. ``id``: the sample's place in the
        data set; ``label``; ``clean_prediction``; ``prediction``, ``fooled`` and ``distance`` of the attack. ``about``: what made
        them, as JSON text. Images that resisted are there, too, with ``fooled`` false.
        """
        n, samples = len(self.positions), self.result.samples
        within = np.searchsorted(np.array(self.record.positions, np.int64), self.positions)
        ids = np.array(samples.ids, np.int64)[self.positions]
        columns = {
            "id": ids,
            "label": np.array(samples.labels, np.int64)[self.positions],
            "clean_prediction": np.array(samples.predictions, np.int64)[self.positions],
            "prediction": np.array(self.record.prediction, np.int64)[within],
            "fooled": np.array(self.record.fooled, bool)[within],
            "distance": np.array(self.record.distance)[within],
            "about": np.array(json.dumps(self._about())),
        }
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            _write(archive, "x_adv", (n, *self._shape), (np.load(shard, mmap_mode="r") for shard in self._files))
            _write(archive, "x", (n, *self._shape), (batch.images.numpy() for batch in dataset.batches(ids, 256)))
            for name, values in columns.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, values, allow_pickle=False)

    def _about(self) -> dict[str, object]:
        facts = self.result.provenance
        return {
            "attack": self.record.attack.model_dump(mode="json"),
            "threat": self.record.threat.model_dump(mode="json"),
            "goal": str(self.result.spec.goal),
            "seed": self.result.spec.seed,
            "model": {"name": facts.model.name, "sha256": facts.model.sha256},
            "dataset": {"name": facts.dataset.name, "sha256": facts.dataset.sha256},
            "made": facts.started,
        }


def _write(archive: zipfile.ZipFile, name: str, shape: Sequence[int], parts: Iterator[NDArray[np.float32]]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": tuple(shape),
        }
        np.lib.format.write_array_header_1_0(entry, header)
        for part in parts:
            entry.write(np.ascontiguousarray(part, np.float32).tobytes())
