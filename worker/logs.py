"""Logging: one line per event, passwords of addresses masked in every handler."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

from worker.settings import Settings

_PASSWORD = re.compile(r"(\w+://[^:/@\s]*:)[^@/\s]+@")


def mask(text: str) -> str:
    """``postgresql://user:secret@host`` -> ``postgresql://user:***@host``."""
    return _PASSWORD.sub(r"\1***@", text)


def set_up_logging(settings: Settings) -> None:
    """Every logger of this process writes masked lines to standard error."""
    secrets = [value for value in (settings.token.get_secret_value(),) if value]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s", secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def get_logger(name: str, **values: Any) -> structlog.stdlib.BoundLogger:
    """A logger that says ``values`` with every event."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger.bind(**values)


class _Masked(logging.Formatter):
    def __init__(self, form: str, secrets: list[str]) -> None:
        super().__init__(form)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        text = mask(super().format(record))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text
