"""Nothing runs: every reader meets files with active content, in the sandbox and with the sandbox off; no marker appears."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from auditor.data.intake import checkpoints, datasets
from auditor.data.intake.magic import HEAD_BYTES
from auditor.data.intake.readers import READERS
from tests.auditor.data.intake.active_files import DATA, MODELS, Case, read_all
from worker.sandbox import confined

for library in ("onnx", "transformers", "pyarrow", "webdataset"):
    pytest.importorskip(library)


class Written(NamedTuple):
    """A file that was made, its marker, and the case it is of."""

    file: Path
    marker: Path
    form: str
    case: Case


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    """Every file, in a folder of its own; all markers in one folder, which the sandbox may write to."""
    top = tmp_path_factory.mktemp("active")
    (top / "markers").mkdir()
    found: list[Written] = []
    for sort, cases in (("model", MODELS), ("data", DATA)):
        for form, some in cases.items():
            for case in some:
                folder = top / str(len(found)) / sort
                folder.mkdir(parents=True)
                entry = Written(folder / case.name, top / "markers" / str(len(found)), form, case)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch cannot find the source of some classes
                    case.make(entry.file, entry.marker)
                found.append(entry)
    return found


def test_every_format_has_a_case() -> None:
    assert MODELS.keys() == set(get_args(checkpoints.WeightsFormat))
    assert DATA.keys() - {"none"} == set(get_args(datasets.Format))
    for form, cases in (MODELS | DATA).items():
        assert form == "none" or any(case.outcome == "taken" for case in cases), form


def test_every_reader_that_names_its_network_meets_one(written: list[Written]) -> None:
    files = [entry.file for entry in written]
    for reader in READERS:
        assert any(reader.recognizes(file, file.name, file.read_bytes()[:HEAD_BYTES]) for file in files), reader


def check(written: list[Written], outcomes: dict[str, Any]) -> None:
    """No marker, and each file was read to the end that is expected of it."""
    assert [entry.case.what for entry in written if entry.marker.exists()] == []
    assert list(written[0].marker.parent.iterdir()) == []
    for entry in written:
        outcome, said = outcomes[str(entry.file)]
        assert outcome == entry.case.outcome, (entry.form, entry.case.what, said)
        assert outcome == "refused" or said == entry.form, (entry.form, entry.case.what, said)


def test_nothing_runs_with_the_sandbox_off(written: list[Written]) -> None:
    destination = written[0].marker.parent / "stored"
    check(written, read_all([str(entry.file) for entry in written], str(destination)))


def inside(function: str, written: list[Written], arguments: dict[str, Any]) -> Any:
    """The call in the sandbox, whose walls let a marker be made: the markers' folder is that of the destination."""
    module = "tests.auditor.data.intake.active_files"
    return confined(
        f"{module}:{function}",
        arguments=arguments,
        readable=[entry.file for entry in written],
        writable=[written[0].marker.parent],
        memory=4 << 30,
        seconds=300,
        preload=["torch", "worker.reading", "auditor.data.intake.weights", "auditor.data.intake.datasets", module],
    )


def test_nothing_runs_in_the_sandbox(written: list[Written]) -> None:
    destination = str(written[0].marker.parent / "stored")
    files = [str(entry.file) for entry in written]
    check(written, inside("read_all", written, {"files": files, "destination": destination}))


def test_in_the_sandbox_a_marker_would_have_shown(written: list[Written]) -> None:
    first = written[0]
    inside("load_trusting", [first], {"file": str(first.file)})
    assert first.marker.exists()
    first.marker.unlink()


def test_each_marker_would_have_shown(written: list[Written]) -> None:
    """Each file, loaded the trusting way, makes its marker."""
    missing = []
    for entry in written:
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entry.case.trusting(entry.file)
        if not entry.marker.exists():
            missing.append((entry.form, entry.case.what))
        entry.marker.unlink(missing_ok=True)
    assert missing == []
