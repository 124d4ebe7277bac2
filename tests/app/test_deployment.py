"""What ships beside the code fits the code: the compose file, the image, and the locked requirements."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_group

from app.cli import app
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
OURS = ("migrate", "worker", "app")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    return yaml.safe_load(re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", text))


def test_every_setting_of_the_compose_file_exists(compose: dict[str, Any]) -> None:
    known = {f"AUDITOR_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        assert set(compose["services"][name]["environment"]) <= known


def test_the_addresses_of_the_compose_file_are_its_services(compose: dict[str, Any]) -> None:
    environment = compose["services"]["worker"]["environment"]
    for name in ("AUDITOR_DATABASE_URL", "AUDITOR_BROKER_URL"):
        host = re.sub(r".*@|.*//", "", environment[name]).split(":")[0]
        assert host in compose["services"], environment[name]


def test_every_command_of_the_compose_file_exists(compose: dict[str, Any]) -> None:
    commands = get_group(app).commands
    for name in OURS:
        program, command, *options = compose["services"][name]["command"]
        assert program == "auditor"
        known = {flag for parameter in commands[command].params for flag in parameter.opts}
        assert {item for item in options if item.startswith("--")} <= known


def test_nothing_runs_before_the_migration(compose: dict[str, Any]) -> None:
    for name in ("worker", "app"):
        assert compose["services"][name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert compose["services"]["migrate"]["restart"] == "no"


def test_the_dashboard_is_published_on_this_machine_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8501:8501"]


def test_the_image_holds_every_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.M)
    assert sorted(copied) == sorted(packages)


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "requirements-docs.txt", "requirements-uv.txt"]
)
def test_every_requirement_is_pinned_by_hash_and_names_no_registry(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[A-Za-z0-9._-]+(\[.*\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line
    assert "://" not in text
