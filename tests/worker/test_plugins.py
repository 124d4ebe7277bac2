"""Packages that bring architectures: wherever they are installed, the sandbox reads them, and nothing else beside them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "extending.md").read_text()
NETWORK = """
from typing import Literal
from torch import nn
from auditor.models.architecture import Architecture

class Net(Architecture):
    kind: Literal["KIND"] = "KIND"

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(self.channels * self.height * self.width, self.num_classes))
"""
HOOK = """
import sys
from importlib.util import spec_from_file_location

class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "hooked":
            return spec_from_file_location(name, FOLDER + "/__init__.py", submodule_search_locations=[FOLDER])

sys.meta_path.append(Finder)
"""
PROGRAM = """
import json, sys
from worker.sandbox import confined
print(json.dumps(confined(
    "tests.worker.sandbox_targets:" + sys.argv[1], arguments=json.loads(sys.argv[2]), memory=2 << 30, seconds=120,
    preload=["auditor.models.architecture"],
)))
"""


def fenced(language: str) -> str:
    """The block of the guide's example package in this language."""
    part = GUIDE[GUIDE.index("## An architecture: a file in") :]
    found = re.search(rf"```{language}\n(.*?)```", part, re.S)
    assert found is not None
    return found[1]


def metadata_of(folder: Path, name: str, point: str) -> None:
    """What an installer leaves beside a package."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[auditor.architectures]\n{point}\n")


@pytest.fixture
def environment(tmp_path: Path) -> tuple[Path, Path]:
    """A virtual environment that has our packages, as an installed product would: its interpreter and its site-packages."""
    venv.create(tmp_path / "venv", with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tmp_path / "venv" / "lib" / version / "site-packages"
    (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    return tmp_path / "venv" / "bin" / "python", packages


def inside(python: Path, target: str, path: str = "", **arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a function in the sandbox of this interpreter."""
    return subprocess.run(
        [python, "-c", PROGRAM, target, json.dumps(arguments)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, cwd=python.parent,
    )  # fmt: skip


def test_editable_packages_and_those_on_the_path_are_read_in_the_sandbox(
    environment: tuple[Path, Path], tmp_path: Path
) -> None:
    python, packages = environment
    # The guide's package, installed as pip installs an editable one: a .pth with its folder, and its metadata.
    guide = tmp_path / "sources" / "our-networks"
    (guide / "our_networks").mkdir(parents=True)
    (guide / "pyproject.toml").write_text(fenced("toml"))
    (guide / "our_networks" / "__init__.py").write_text("")
    (guide / "our_networks" / "small.py").write_text(fenced("python"))
    project = tomllib.loads(fenced("toml"))["project"]
    ((name, value),) = project["entry-points"]["auditor.architectures"].items()
    metadata_of(packages, project["name"], f"{name} = {value}")
    (packages / "__editable__.our_networks-1.0.pth").write_text(f"{guide}\n")
    # Another, found by an import hook, as newer setuptools do it.
    hooked = tmp_path / "sources" / "hooked-project" / "source"
    hooked.mkdir(parents=True)
    (hooked / "__init__.py").write_text(NETWORK.replace("KIND", "hooked"))
    (packages / "__editable___hooked_finder.py").write_text(f"FOLDER = {str(hooked)!r}\n{HOOK}")
    (packages / "__editable__.hooked-1.0.pth").write_text("import __editable___hooked_finder\n")
    metadata_of(packages, "hooked", "hooked = hooked")
    # And one that only lies on PYTHONPATH.
    lying = tmp_path / "sources" / "lying"
    lying.mkdir()
    (lying / "lying.py").write_text(NETWORK.replace("KIND", "lying"))
    metadata_of(lying, "lying", "lying = lying:Net")
    (guide / "secret.txt").write_text("not for the reader of uploads")

    done = inside(python, "built_architectures", str(lying), kinds=["our-small", "hooked", "lying"])
    assert done.returncode == 0, done.stderr
    # 3*9*8 + 8 and 8*16*16*10 + 10; 3072*10 + 10
    assert json.loads(done.stdout) == {"our-small": 20714, "hooked": 30730, "lying": 30730}
    secrets = [str(guide / "secret.txt"), str(guide / "pyproject.toml"), str(guide / "our_networks" / "small.py")]
    seen = inside(python, "readable_ones", str(lying), paths=secrets)
    assert json.loads(seen.stdout) == secrets[2:], "the package alone, not the folder that it lies in"


def test_a_package_that_cannot_be_loaded_is_named(environment: tuple[Path, Path], tmp_path: Path) -> None:
    python, packages = environment
    needed, broken = tmp_path / "needed", tmp_path / "broken"
    for folder in (needed, broken):
        folder.mkdir()
    (needed / "helper_of_ours.py").write_text("")
    (broken / "broken_nets.py").write_text("import helper_of_ours\n")
    metadata_of(packages, "broken-nets", "broken = broken_nets")
    (packages / "broken.pth").write_text(f"{needed}\n{broken}\n")
    done = inside(python, "built_architectures", kinds=["broken"])
    last = done.stderr.strip().splitlines()[-1]
    assert "The plug-in broken (broken_nets, of broken-nets 1.0) cannot be loaded: PermissionError: " in last
    assert "a plug-in can import only its own package" in last

    done = inside(python, "built_architectures", kinds=["lenet5"])
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == ["lenet5"], "who does not ask for it is not bothered"
