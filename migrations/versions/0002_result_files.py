"""files that belong to a result"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "result_file",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["result.job_id"], name="fk_result_file_job_id_result"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_result_file"),
    )


def downgrade() -> None:
    op.drop_table("result_file")
