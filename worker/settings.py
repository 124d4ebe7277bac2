"""Settings: where things lie and how jobs are run; each one an environment variable AUDITOR_<NAME>."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from auditor.kit.errors import SpecError


def _default_home() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "neuron-auditor"


OMP_SPINS = "1000"
"""PyTorch's idle threads spin before they sleep. By default so long that two processes on the same cores take four times as long
for a small network; with 1,000 turns they take twice as long, and one alone is hardly slower (GOMP_SPINCOUNT)."""


class Settings(BaseSettings):
    """Everything that an operator may set."""

    model_config = SettingsConfigDict(env_prefix="AUDITOR_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=_default_home, description="Folder of the database, the files and the queue.")
    database_url: SecretStr = Field(
        SecretStr(""), description="postgresql://... or sqlite:///...; empty: SQLite in the home."
    )
    broker_url: SecretStr = Field(
        SecretStr(""), description="redis://... or amqp://...; empty: the embedded broker in the home."
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="If a worker is silent for this long, its job goes back to the queue."
    )
    max_attempts: int = Field(
        3, ge=1, description="How often a job is started without getting further before it fails."
    )
    job_seconds: float = Field(86_400.0, gt=0, description="Longest run of one job.")
    stall_seconds: float = Field(
        3600.0, gt=0, description="A running job that shows no progress for this long is stopped and tried again."
    )
    concurrency: int = Field(1, ge=1, le=64, description="Jobs that one worker runs in parallel.")
    fork: bool = Field(
        True,
        description="Fork each job's process from one that has already done the imports (Linux); otherwise start a new "
        "process.",
    )
    disk_reserve: int = Field(
        64 << 20, ge=0, description="No job starts while the disk of the home has less free space than this, in bytes."
    )
    allow_code: bool = Field(
        False, description="Whether models that run their owner's Python code may be added, and run in the sandbox."
    )
    upload_limit: int = Field(4 << 30, gt=0, description="Largest file that may be added, in bytes.")
    browser_upload_limit: int = Field(200 << 20, gt=0, description="Largest upload through the browser, in bytes.")
    intake_memory: int = Field(
        8 << 30,
        gt=0,
        description="Memory that reading an uploaded file, or running its owner's code, may take, in bytes.",
    )
    intake_budget: int = Field(
        0,
        ge=0,
        description="Memory that all reads of uploaded files together may take, in bytes; 0: half of the machine's.",
    )
    intake_seconds: int = Field(900, gt=0, description="Time that reading an uploaded file may take.")
    host: str = Field("127.0.0.1", description="Address on which the dashboard listens.")
    port: int = Field(8501, ge=1, le=65_535, description="Port of the dashboard.")
    allowed_hosts: str = Field("", description="Comma-separated names under which the dashboard may be reached.")
    token: SecretStr = Field(SecretStr(""), description="Secret that every visitor of the dashboard must enter.")
    session_hours: float = Field(24.0, gt=0, le=8760, description="Hours after which a visitor has to log in again.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def resolved_database_url(self) -> str:
        """The SQLAlchemy address, with its driver."""
        url = self.database_url.get_secret_value() or f"sqlite:///{self.home / 'auditor.db'}"
        for prefix in ("postgresql://", "postgres://"):
            if url.startswith(prefix):
                return "postgresql+psycopg://" + url.removeprefix(prefix)
        return url

    @property
    def blobs(self) -> Path:
        return self.home / "blobs"

    @property
    def broker_folder(self) -> Path:
        return self.home / "broker"

    @property
    def workspaces(self) -> Path:
        """Checkpoints of jobs that have not ended."""
        return self.home / "workspaces"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def inbox(self) -> Path:
        """Files that an operator put on the server, to be added through the page without an upload."""
        return self.home / "inbox"

    def environment(self) -> dict[str, str]:
        """The environment for a process of ours, so it finds the same home, database and broker."""
        pinned = {"AUDITOR_HOME": str(self.home)}
        for name in ("database_url", "broker_url", "token"):
            secret: SecretStr = getattr(self, name)
            pinned[f"AUDITOR_{name.upper()}"] = secret.get_secret_value()
        for name in type(self).model_fields:
            if name not in ("home", "database_url", "broker_url", "token"):
                pinned[f"AUDITOR_{name.upper()}"] = str(getattr(self, name))
        return {"GOMP_SPINCOUNT": OMP_SPINS, **os.environ, **pinned}


def load_settings() -> Settings:
    """From the environment. Raises SpecError naming the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise SpecError.from_validation("settings (environment variables AUDITOR_*)", error) from None
