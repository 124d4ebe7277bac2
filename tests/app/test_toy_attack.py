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

    from auditor.attacking.attack import Attack, Query, Rows


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

LOOK = """
import io, json, sys
from contextlib import redirect_stdout
from streamlit.testing.v1 import AppTest
from app.cli import main

def said(*arguments):
    sys.argv = ["auditor", *arguments]
    with redirect_stdout(io.StringIO()) as output:
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, ended.code
    return output.getvalue()

page = AppTest.from_file(sys.argv[1], default_timeout=120)
page.run()
page.switch_page("views/new_audit.py")
page.run()
page.multiselect(key="audit-attack").set_value(["brighten"]).run()
form = [page.multiselect(key="audit-attack").options, [item.label for item in page.number_input]]
print(json.dumps([form, said("audit", "run", "--help"), said("audit", "schema")]))
"""


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    make_world(settings)
    return {**plugged(tmp_path, "auditor.attacking.attacks", "brighten", TOY), "COLUMNS": "200"}


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
    main = str(Path(__file__).parents[2] / "app" / "main.py")
    (options, labels), text, schema = json.loads(run(environment, "-c", LOOK, main).splitlines()[-1])
    assert "brighten" in text
    assert "Makes the image brighter" in text
    assert json.loads(schema)["$defs"]["Brighten"]["properties"]["share"]["description"] == "Share of the budget."
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
