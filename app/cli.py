"""The command line: ``auditor``. Commands load what they need when they run, so ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from app.commands import audits, compare, datasets, defend, doctor, harden, jobs, models, serve
from auditor.kit.disk import outage
from auditor.kit.errors import AuditorError

app = typer.Typer(
    name="auditor",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"Neuron Auditor {metadata.version('neuron-auditor')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Audit image classifiers: strong attacks, neuron-level evidence, and a report that survives questions."""


app.add_typer(models.app, name="models", help="Add and list models.")
app.add_typer(datasets.app, name="datasets", help="Add and list data sets.")
app.add_typer(audits.app, name="audit", help="Run, list, show and cancel audits.")
app.add_typer(harden.app, name="harden", help="Train more robust children of a model; list, show and cancel trainings.")
app.add_typer(defend.app, name="defend", help="Fit defenses, evaluate them, and export defended models.")
app.add_typer(jobs.app, name="jobs", help="List jobs of every kind; show one, its log, run it again, cancel it.")
app.command("compare")(compare.compare)
app.command("report")(compare.report)
app.command("doctor")(doctor.doctor)
for command in (serve.demo, serve.up, serve.worker, serve.dashboard, serve.migrate):
    app.command(command.__name__)(command)


def main() -> None:
    """Run a command; an error is one clear sentence on standard error and exit code 1."""
    try:
        app()
    except AuditorError as error:
        print(f"auditor: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if (fault := outage(error)) is not None:
            print(f"auditor: {fault}", file=sys.stderr)
            raise SystemExit(1) from None
        if os.environ.get("AUDITOR_DEBUG"):
            raise
        print(
            f"auditor: internal error ({type(error).__name__}: {error}). Set AUDITOR_DEBUG=1 for the details.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
