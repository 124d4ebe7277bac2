"""One stored finding of every analysis, measured once on a small network, so that what is drawn of it is the same everywhere.

``python -m tests.auditor.analyses.stored KIND ...`` measures some anew, without names those that are missing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from auditor.analysis import ANALYSES, Finding, measured
from tests.auditor.analyses.given import attacked
from tests.nets import deeper_classifier, labelled

FOLDER = Path(__file__).parents[1] / "stored" / "findings"


def stored(kind: str) -> Finding:
    file = FOLDER / f"{kind}.json"
    assert file.exists(), f"{kind} has no stored finding: run python -m tests.auditor.analyses.stored {kind}"
    return Finding.model_validate_json(file.read_text())


def measure(kinds: list[str]) -> None:
    classifier = deeper_classifier()
    classifier.class_names = ("ant", "bee", "cat", "dog", "elk")
    with TemporaryDirectory() as folder:
        made = attacked(classifier, labelled(classifier, n=40), Path(folder), epsilon=0.5)
        for kind in kinds:
            found = measured(ANALYSES.build(kind, {}), replace(made, batch_size=128))
            assert not found.declined, found.declined
            text = json.dumps(_short(found.model_dump(mode="json")), ensure_ascii=False)
            (FOLDER / f"{kind}.json").write_text(text + "\n")


def _short(value: Any) -> Any:
    """Plain data with six digits of every number."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    measure(sys.argv[1:] or [kind for kind in ANALYSES.members if not (FOLDER / f"{kind}.json").exists()])
