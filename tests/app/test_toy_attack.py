"""Adding an attack is adding a file: it shows up in the form, the command line's help and the JSON schema, and it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins import plugged
from tests.processes import die_with_tests
from tests.worker.world import make_world
from worker.settings import Settings

TOY = '''
    """A toy."""

    from typing import ClassVar, Literal

    from pydantic import Field
    from torch import Tensor

    from auditor.attack import Attack, Query, Rows


    class Brighten(Attack):
        """Makes the image brighter by the whole budget."""

        title: ClassVar[str] = "Brighten"
        kind: Literal["brighten"] = "brighten"
        share: float = Field(1.0, gt=0, le=1, description="Share of the budget.")

        @property
        def iterations(self) -> int:
            return 1

        def step(self, rows: Rows, query: Query) -> Tensor:
            return rows.x + self.share * rows.ball.epsilon
'''

FORM = """
import json, sys
from streamlit.testing.v1 import AppTest
from tests.processes import die_with_tests
page = AppTest.from_file(sys.argv[1], default_timeout=120)
page.run()
page.switch_page("views/new_audit.py")
page.run()
page.multiselect(key="audit-attack").set_value(["brighten"]).run()
print(json.dumps([page.multiselect(key="audit-attack").options, [item.label for item in page.number_input]]))
"""


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    make_world(settings)
    return {**plugged(tmp_path, "auditor.attacks", "brighten", TOY), "COLUMNS": "200"}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        preexec_fn=die_with_tests,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_new_module_is_in_the_help_the_schema_and_the_form_and_runs(environment: dict[str, str]) -> None:
    text = run(environment, "-m", "app.cli", "audit", "run", "--help")
    assert "brighten" in text
    assert "Makes the image brighter" in text
    schema = json.loads(run(environment, "-m", "app.cli", "audit", "schema"))
    assert schema["$defs"]["Brighten"]["properties"]["share"]["description"] == "Share of the budget."
    main = str(Path(__file__).parents[2] / "app" / "main.py")
    options, labels = json.loads(run(environment, "-c", FORM, main).splitlines()[-1])
    assert "Brighten" in options
    assert "Share" in labels
    ran = run(
        environment,
        "-m",
        "app.cli",
        "audit",
        "run",
        "tiny",
        "random",
        "--attack",
        "brighten:share=0.5",
        "--samples",
        "20",
    )
    assert "brighten:budget=fixed,share=0.5" in "".join(ran.split())
