"""Logging: one line per event, a traceback below it, passwords of addresses masked in every handler; and reading a job's log."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import structlog

from worker.settings import Settings

_PASSWORD = re.compile(r"(\w+://[^:/@\s]*:)[^@/\s]+@")


def mask(text: str) -> str:
    """``postgresql://user:secret@host`` -> ``postgresql://user:***@host``."""
    return _PASSWORD.sub(r"\1***@", text)


def set_up_logging(settings: Settings) -> None:
    """Every logger of this process writes masked lines to standard error."""
    secrets = _secrets(settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s", secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            _rendered,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def get_logger(name: str, **values: Any) -> structlog.stdlib.BoundLogger:
    """A logger that says ``values`` with every event."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger.bind(**values)


def job_log_file(settings: Settings, job_id: str) -> Path:
    """Where the attempts of a job write on the machine of their worker."""
    return settings.logs / f"job-{job_id}.log"


def read_job_log(settings: Settings, job_id: str, most: int = 200_000) -> str | None:
    """The end of a job's log, secrets masked; None where it is not on this machine."""
    try:
        with job_log_file(settings, job_id).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            content = file.read(most)
    except OSError:
        return None
    # Native code and warnings write past the handler that masks.
    return _masked(content.decode("utf-8", "replace"), _secrets(settings))


def _secrets(settings: Settings) -> list[str]:
    return [value for value in (settings.token.get_secret_value(),) if value]


def _masked(text: str, secrets: list[str]) -> str:
    text = mask(text)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


_PAIRS = structlog.processors.KeyValueRenderer(key_order=["event"])


def _rendered(logger: Any, name: str, event: structlog.typing.EventDict) -> str:
    """``event='failed' job='1f…'`` in a line, and the traceback as Python prints it."""
    exception = event.pop("exception", "")
    line = str(_PAIRS(logger, name, event))
    return f"{line}\n{exception}" if exception else line


class _Masked(logging.Formatter):
    def __init__(self, form: str, secrets: list[str]) -> None:
        super().__init__(form)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return _masked(super().format(record), self._secrets)
