"""models, data sets, jobs, results, workers"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SECONDS = sa.Float(precision=53)


def upgrade() -> None:
    op.create_table(
        "dataset",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created", SECONDS, nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dataset"),
        sa.UniqueConstraint("name", name="uq_dataset_name"),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created", SECONDS, nullable=False),
        sa.Column("architecture", sa.JSON(), nullable=False),
        sa.Column("normalization", sa.JSON(), nullable=False),
        sa.Column("class_names", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("weights", sa.String(64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("name", name="uq_model_name"),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.String(100), nullable=False),
        sa.Column("started", SECONDS, nullable=False),
        sa.Column("seen", SECONDS, nullable=False),
        sa.Column("queues", sa.JSON(), nullable=False),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("title", sa.String(400), nullable=False),
        sa.Column("queue", sa.String(40), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("model_id", sa.String(32), nullable=True),
        sa.Column("dataset_id", sa.String(32), nullable=True),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("created", SECONDS, nullable=False),
        sa.Column("published", SECONDS, nullable=True),
        sa.Column("started", SECONDS, nullable=True),
        sa.Column("finished", SECONDS, nullable=True),
        sa.Column("time_limit", SECONDS, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(100), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", SECONDS, nullable=True),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        sa.Column("share", SECONDS, nullable=False),
        sa.Column("step", sa.String(200), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("hint", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name="fk_job_dataset_id_dataset"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_job_model_id_model"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_created", "job", ["created"])
    op.create_index("ix_job_state_lease", "job", ["state", "lease_until"])
    op.create_table(
        "result",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("created", SECONDS, nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_result_job_id_job"),
        sa.PrimaryKeyConstraint("job_id", name="pk_result"),
    )


def downgrade() -> None:
    for table in ("result", "job", "worker", "model", "dataset"):
        op.drop_table(table)
