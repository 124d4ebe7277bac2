"""trained models and their parents, live points, jobs that stop gently"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Tables of their own and plain columns: SQLite cannot give a table that others refer to a new foreign key in place.
    op.create_table(
        "origin",
        sa.Column("model_id", sa.String(32), nullable=False),
        sa.Column("parent_id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_origin_model_id_model"),
        sa.ForeignKeyConstraint(["parent_id"], ["model.id"], name="fk_origin_parent_id_model"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_origin_job_id_job"),
        sa.PrimaryKeyConstraint("model_id", name="pk_origin"),
        sa.UniqueConstraint("job_id", name="uq_origin_job_id"),
    )
    op.create_index("ix_origin_parent_id", "origin", ["parent_id"])
    op.create_table(
        "point",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_point_job_id_job"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_point"),
    )
    op.add_column("job", sa.Column("fruitless", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("reached", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("resumed", sa.Float(precision=53), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("grace", sa.Float(precision=53), nullable=False, server_default="0"))


def downgrade() -> None:
    for column in ("grace", "resumed", "reached", "fruitless"):
        op.drop_column("job", column)
    op.drop_table("point")
    op.drop_table("origin")
