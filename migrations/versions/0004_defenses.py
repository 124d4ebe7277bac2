"""stored defenses, and which of them a job evaluates"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "defense",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created", sa.Float(precision=53), nullable=False),
        sa.Column("model_id", sa.String(32), nullable=False),
        sa.Column("dataset_id", sa.String(32), nullable=True),
        sa.Column("job_id", sa.String(32), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_defense_model_id_model"),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name="fk_defense_dataset_id_dataset"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_defense_job_id_job"),
        sa.PrimaryKeyConstraint("id", name="pk_defense"),
        sa.UniqueConstraint("name", name="uq_defense_name"),
        sa.UniqueConstraint("job_id", name="uq_defense_job_id"),
    )
    op.create_index("ix_defense_model_id", "defense", ["model_id"])
    op.create_table(
        "defense_job",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("defense_id", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_defense_job_job_id_job"),
        sa.ForeignKeyConstraint(["defense_id"], ["defense.id"], name="fk_defense_job_defense_id_defense"),
        sa.PrimaryKeyConstraint("job_id", name="pk_defense_job"),
    )
    op.create_index("ix_defense_job_defense_id", "defense_job", ["defense_id"])


def downgrade() -> None:
    op.drop_table("defense_job")
    op.drop_table("defense")
