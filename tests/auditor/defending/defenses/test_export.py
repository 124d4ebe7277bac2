"""A defended model exported, and run by a Python that does not know this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.defending.defense import DEFENSES, Defense, defended, fit_stack
from auditor.defending.defenses.bit_depth import BitDepthReduction
from auditor.defending.export import PACKAGE, closure, export
from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from tests.auditor.defending.defenses.small import default, images, network
from tests.nets import labelled

RUN = """
import sys
sys.modules["auditor"] = None  # whoever imports it fails
folder = sys.argv[1]
sys.path[:] = [folder] + [item for item in sys.path if item and item != sys.argv[2]]
import numpy as np, torch
torch.set_num_threads(1)
import defended_model
model = defended_model.load(folder)
np.save(folder + "/logits.npy", model.logits(torch.from_numpy(np.load(folder + "/x.npy"))).numpy())
"""


@pytest.mark.parametrize(
    "texts", [("tvm", "jpeg", "nip:quorum=0.8,inputs=12"), ("sap:passes=2",), ("super-resolution",)]
)
def test_the_folder_runs_alone(texts: tuple[str, ...], tmp_path: Path) -> None:
    architecture = ARCHITECTURES.build("lenet5", {})
    torch.manual_seed(0)
    shape = architecture.input_shape
    classifier = Classifier(
        architecture.build(), input_shape=shape, num_classes=10, normalization=NORMALIZATIONS["half"], name="lenet"
    )
    data = labelled(classifier, 24, wrong=0)
    stack = [default(text) if ":" not in text and text in DEFENSES.members else DEFENSES.parse(text) for text in texts]
    states = fit_stack(classifier, stack, data, np.arange(24), seed=5)
    model = defended(classifier, stack, states, seed=5)
    export(tmp_path, classifier, architecture, stack, states, seed=5)
    x = data.images(np.arange(6))
    np.save(tmp_path / "x.npy", x.numpy())
    here = str(Path(__file__).parents[4])
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(tmp_path), here],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.load(tmp_path / "logits.npy"), model.logits(x).numpy(), atol=1e-5)
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in lines} <= {"numpy", "pillow", "pydantic", "safetensors", "scipy", "torch"}


def test_only_what_is_needed_is_copied(tmp_path: Path) -> None:
    classifier, defense = network(), default("bit-depth")
    export(
        tmp_path,
        classifier,
        None,
        [defense],
        [defense.fit(classifier, images(classifier), np.arange(4), seed=0)],
        seed=0,
    )
    copied = {path.name for path in (tmp_path / PACKAGE / "defending" / "defenses").iterdir() if path.suffix == ".py"}
    assert copied == {"__init__.py", "bit_depth.py"}
    assert not list(tmp_path.rglob("attack.py"))
    assert not any("from auditor" in path.read_text() for path in tmp_path.rglob("*.py"))


def test_every_defense_can_be_exported() -> None:
    for member in DEFENSES:
        modules = closure([member.__module__])
        assert "auditor.defending.defense" in modules
        forbidden = {"auditor.attacking.evaluation", "auditor.auditing.audit", "auditor.attacking.attack"}
        assert not forbidden & set(modules), member.kind_name()


def test_code_of_others_is_refused(tmp_path: Path) -> None:
    class Elsewhere(BitDepthReduction):
        pass

    defense: Defense = Elsewhere()
    with pytest.raises(SpecError, match="not ours to copy"):
        export(
            tmp_path,
            network(),
            None,
            [defense],
            [defense.fit(network(), images(network()), np.arange(4), seed=0)],
            seed=0,
        )
