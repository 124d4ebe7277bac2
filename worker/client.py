"""Client: all that the dashboard and the command line may ask for. They hold no SQL and no queue of their own."""

from __future__ import annotations

from worker.db import upgrade
from worker.defenses import DefenseView
from worker.keeper import Keeper
from worker.ledger import ENDED, HOPEFUL
from worker.private import private_folder
from worker.service.audits import Audits
from worker.service.backend import Backend
from worker.service.defenses import EvaluationView, QueuedFit, StoredDefenses
from worker.service.jobs import Jobs
from worker.service.library import Library
from worker.service.trainings import Trainings
from worker.settings import Settings
from worker.store import Store
from worker.views import CostEstimate, JobView

__all__ = ["ENDED", "HOPEFUL", "Client", "CostEstimate", "DefenseView", "EvaluationView", "JobView", "QueuedFit"]


class Client:
    """The service in five parts, on one database, one folder of files and one broker."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.backend = backend = Backend(settings)
        self.settings, self.ledger, self.blobs = backend.settings, backend.ledger, backend.blobs
        self.library = Library(backend)
        self.jobs = Jobs(backend)
        self.audits = Audits(backend, self.library, self.jobs)
        self.trainings = Trainings(backend, self.library, self.jobs, self.audits)
        self.defenses = StoredDefenses(backend, self.library, self.jobs, self.audits)

    def prepare(self) -> None:
        """Make or upgrade the tables and folders."""
        upgrade(self.settings)
        Store(self.settings.blobs, self.backend.database).establish()
        private_folder(self.settings.inbox)

    def keeper(self) -> Keeper:
        """Housekeeping for a process that runs no jobs."""
        return Keeper(self.settings, self.ledger, self.backend.publish)
