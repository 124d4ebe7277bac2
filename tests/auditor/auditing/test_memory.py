"""Ten thousand images stream through a whole audit; memory holds their verdicts, not the images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from auditor.auditing import audit
from auditor.auditing.spec import AuditSpec
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset, write_dataset
from tests.nets import small_cnn

n, folder = int(sys.argv[1]), Path(sys.argv[2])
shape = (3, 32, 32)
draws = np.random.default_rng(0)
classifier = Classifier(small_cnn(shape=shape), input_shape=shape, num_classes=5, normalization=NORMALIZATIONS["half"])
images = (draws.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8) for _ in range(n // 100))
write_dataset(folder / "data", images, (n, 32, 32, 3), "U8", draws.integers(0, 5, n))
peaks = []

def watch(share, what):
    status = Path("/proc/self/status").read_text()
    peaks.append(int(status.split("RssAnon:")[1].split()[0]) / 1024)

spec = AuditSpec.load({
    "samples": None, "curve": [2], "curve_to_zero": False, "analysis_samples": n, "examples": None, "batch_size": 100,
    "attacks": [{"kind": "fgsm"}, {"kind": "pgd", "steps": 2}, {"kind": "square", "queries": 5}],
    "analysis_attack": {"kind": "pgd", "steps": 2}, "corruptions": [{"kind": "contrast", "severity": 3}],
})
(folder / "examples").mkdir()
result = audit.run(spec, classifier, ImageDataset.open(folder / "data"), on_progress=watch, examples=folder / "examples")
assert len(result.samples) == n
kept = sum(file.stat().st_size for file in (folder / "examples").iterdir())
print(json.dumps({"peak": max(peaks), "kept": kept, "attacked": len(result.records[0].positions)}))
"""


def peak_of(n: int, folder: Path) -> dict[str, float]:
    """Peak of anonymous memory in MB. Blocks from 128 KB on go back to the system when freed (glibc otherwise raises that limit
    as it goes and keeps a heap in pieces, some 30 MB more or less by chance), so that what counts is what the audit holds.
    """
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(n), str(folder)], capture_output=True, text=True, check=False, timeout=500,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_ten_times_as_many_images_take_hardly_more_memory(tmp_path: Path) -> None:
    few, many = peak_of(1000, tmp_path / "few"), peak_of(10_000, tmp_path / "many")
    print(few, many)
    images = 10_000 * 3 * 32 * 32 * 4 / 2**20
    assert many["kept"] / 2**20 > 3 * 0.9 * images * many["attacked"] / 10_000, "every adversarial image was on disk"
    assert many["peak"] - few["peak"] < 0.2 * images, "the verdicts on 10,000 samples and nothing of the images"
