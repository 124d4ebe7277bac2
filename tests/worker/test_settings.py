"""Settings reach the processes that we start, and the operator's own environment comes first."""

from __future__ import annotations

import pytest

from worker.settings import OMP_SPINS, Settings, load_settings


def test_a_process_of_ours_gets_the_same_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "7")
    monkeypatch.setenv("AUDITOR_TOKEN", "secret")
    environment = load_settings().environment()
    for name in list(environment):
        if name.startswith("AUDITOR_"):
            monkeypatch.setenv(name, environment[name])
    again = load_settings()
    assert (again.home, again.lease_seconds, again.token.get_secret_value()) == (settings.home, 7, "secret")


def test_idle_threads_spin_briefly_unless_the_operator_says_otherwise(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert settings.environment()["GOMP_SPINCOUNT"] == OMP_SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    assert settings.environment()["GOMP_SPINCOUNT"] == "5"
