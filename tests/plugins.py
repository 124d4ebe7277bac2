"""New members of a catalogue, as one new module each, for processes that a test starts."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent


def plugged(folder: Path, package: str, module: str, source: str) -> dict[str, str]:
    """An environment in which ``package`` (auditor.attacking.attacks, worker.jobs, ...) has one more module.

    The module lies in a folder of the test's own, which a ``sitecustomize`` adds to the package's path: nothing else of
    the product changes. May be called again with the same folder.
    """
    extra = folder / "plugins" / package
    extra.mkdir(parents=True, exist_ok=True)
    (extra / f"{module}.py").write_text(dedent(source))
    customize = folder / "plugins" / "sitecustomize.py"
    added = f"import {package}; {package}.__path__.append({str(extra)!r})\n"
    before = customize.read_text() if customize.exists() else ""
    if added not in before:
        customize.write_text(before + added)
    paths = [str(folder / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
