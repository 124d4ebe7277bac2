"""What errors of the intake name as a remedy is there: on the command line, and on the page under that label."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import streamlit as st
import typer.main

import auditor
from app.commands.datasets import app as datasets
from app.commands.models import app as models
from tests.app.test_pages import opened
from tests.worker.world import make_world
from worker.settings import Settings

ROOT = Path(auditor.__file__).parent
SOURCES = [*(ROOT / "data" / "intake").glob("*.py"), *(ROOT / "models").glob("*.py")]


def remedies() -> tuple[set[str], set[str]]:
    """The options and the labels of the page that texts of the intake name."""
    texts = [
        node.value
        for source in SOURCES
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = " ".join(texts)
    return set(re.findall(r"--[a-z][a-z-]+", found)), set(re.findall(r"'([A-Z][a-z -]+)' on the page", found))


def test_options_and_labels_that_errors_name_exist(settings: Settings) -> None:
    options, labels = remedies()
    assert {
        "--resize",
        "--crop",
        "--channels",
        "--layout",
        "--largest-value",
        "--first-label",
        "--leave-out",
    } <= options
    adding = [typer.main.get_group(group).commands["add"] for group in (datasets, models)]
    assert options <= {name for command in adding for parameter in command.params for name in parameter.opts}
    st.cache_resource.clear()
    make_world(settings)
    shown = {
        item.label
        for page in (opened("datasets"), opened("models"))
        for kind in ("selectbox", "number_input", "checkbox", "text_input")
        for item in getattr(page, kind)
    }
    assert len(labels) >= 5
    assert labels <= shown


@pytest.mark.parametrize(
    ("options", "why"),
    [(["--leave-out"], "was left out, since it cannot be used"), (["--exclude", "*.gif"], "was left out, as asked")],
)
def test_the_command_line_reads_as_it_is_told(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    why: str,
) -> None:
    import io
    import zipfile

    import numpy as np
    from PIL import Image

    from tests.app.test_withheld import printed

    twelve = (np.arange(64).reshape(8, 8) * 65).astype("uint16")
    Image.fromarray(twelve).save(stream := io.BytesIO(), "PNG")
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for name in ("a/1.png", "b/1.png"):
            archive.writestr(name, stream.getvalue())
        archive.writestr("b/2.gif", b"GIF89a" + bytes(50))
    said = " ".join(
        printed(
            capsys, monkeypatch, "datasets", "add", str(tmp_path / "scans.zip"), "--largest-value", "4095", *options
        ).split()
    )
    assert "Added data set scans" in said
    assert f"1 of 3 files {why}: 'b/2.gif'." in said
    assert "2 images of 16 bits scaled so that 4,095 is white, as asked." in said
