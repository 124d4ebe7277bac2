"""The tables. Times are seconds since 1970 by the database server's clock; files are named by their SHA-256."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Float, ForeignKey, Index, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)


class ModelRow(Base):
    """A registered classifier: an architecture by name, and its weights as a blob.

    ``declared_accuracy``: the share of images that it is said to classify correctly, where somebody said so.
    """

    __tablename__ = "model"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created: Mapped[float] = mapped_column(Float(53))
    architecture: Mapped[dict[str, Any]] = mapped_column(JSON)
    normalization: Mapped[dict[str, Any]] = mapped_column(JSON)
    class_names: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    declared_accuracy: Mapped[float | None] = mapped_column(Float(53))
    weights: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)


class OriginRow(Base):
    """Where a model that we trained comes from: its parent, and the job that made it. A job makes at most one model."""

    __tablename__ = "origin"

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id"), primary_key=True)
    parent_id: Mapped[str] = mapped_column(ForeignKey("model.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), unique=True)


class DatasetRow(Base):
    """A registered data set, as a blob."""

    __tablename__ = "dataset"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created: Mapped[float] = mapped_column(Float(53))
    content: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)


class DefenseRow(Base):
    """A fitted defense, or several in a row, as a blob: for which model, and how (``spec``).

    ``dataset_id``, ``job_id``: what it was fitted on, and by which job; empty where it learns nothing. A job makes at most one.
    """

    __tablename__ = "defense"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created: Mapped[float] = mapped_column(Float(53))
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("dataset.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id"), unique=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    content: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)


class DefenseJobRow(Base):
    """Which stored defense a job evaluates."""

    __tablename__ = "defense_job"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), primary_key=True)
    defense_id: Mapped[str] = mapped_column(ForeignKey("defense.id"), index=True)


class JobRow(Base):
    """One job and everything about its life; this row is the truth, the broker only carries its id.

    ``reached``: how far the job's own checkpoints have come, 0 without one. ``fruitless``: attempts since that last grew.
    ``resumed``: the share that was done when this attempt began.
    ``grace``: seconds in which the job, asked to stop, ends by itself with what it has; 0 for one that is just stopped.
    ``outages``: attempts in a row that something ended which is not the job's fault (a full disk, a database that was away).
    ``waits``: what ended the last attempt; ``not_before``: when the next may begin.
    ``heard``: when the job's own process last showed that it gets on.
    """

    __tablename__ = "job"
    __table_args__ = (Index("ix_job_state_lease", "state", "lease_until"), Index("ix_job_created", "created"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(400))
    queue: Mapped[str] = mapped_column(String(40))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("model.id"))
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("dataset.id"))
    state: Mapped[str] = mapped_column(String(12))
    created: Mapped[float] = mapped_column(Float(53))
    published: Mapped[float | None] = mapped_column(Float(53))
    started: Mapped[float | None] = mapped_column(Float(53))
    finished: Mapped[float | None] = mapped_column(Float(53))
    time_limit: Mapped[float] = mapped_column(Float(53))
    attempts: Mapped[int] = mapped_column(Integer)
    max_attempts: Mapped[int] = mapped_column(Integer)
    fruitless: Mapped[int] = mapped_column(Integer, server_default="0")
    reached: Mapped[int] = mapped_column(Integer, server_default="0")
    resumed: Mapped[float] = mapped_column(Float(53), server_default="0")
    grace: Mapped[float] = mapped_column(Float(53), server_default="0")
    outages: Mapped[int] = mapped_column(Integer, server_default="0")
    not_before: Mapped[float | None] = mapped_column(Float(53))
    waits: Mapped[str | None] = mapped_column(Text)
    heard: Mapped[float | None] = mapped_column(Float(53))
    owner: Mapped[str | None] = mapped_column(String(100))
    fence: Mapped[int] = mapped_column(BigInteger)
    lease_until: Mapped[float | None] = mapped_column(Float(53))
    cancel: Mapped[bool] = mapped_column(Boolean)
    share: Mapped[float] = mapped_column(Float(53))
    step: Mapped[str] = mapped_column(String(200))
    error: Mapped[str | None] = mapped_column(Text)
    hint: Mapped[str | None] = mapped_column(Text)


class ResultRow(Base):
    """What a job made: a blob and a few numbers for lists. One per job, whatever happens."""

    __tablename__ = "result"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), primary_key=True)
    created: Mapped[float] = mapped_column(Float(53))
    content: Mapped[str] = mapped_column(String(64))
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)


class ResultFileRow(Base):
    """A file that belongs to a result, as a blob, by a name that its job gave it."""

    __tablename__ = "result_file"

    job_id: Mapped[str] = mapped_column(ForeignKey("result.job_id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    content: Mapped[str] = mapped_column(String(64))


class PointRow(Base):
    """What a job measured on its way, for its live curves; ``number`` counts."""

    __tablename__ = "point"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)


class StoreRow(Base):
    """The one row that says which folder of stored files belongs to this database (``worker.store``)."""

    __tablename__ = "store"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(32))
    created: Mapped[float] = mapped_column(Float(53))


class WorkerRow(Base):
    """A worker that gave a sign of life, and what it can run. ``trouble``: why it takes no jobs now; empty when it
    does."""

    __tablename__ = "worker"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    started: Mapped[float] = mapped_column(Float(53))
    seen: Mapped[float] = mapped_column(Float(53))
    queues: Mapped[list[str]] = mapped_column(JSON)
    devices: Mapped[list[str]] = mapped_column(JSON)
    trouble: Mapped[str] = mapped_column(Text, server_default="")
