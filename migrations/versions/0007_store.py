"""the identity of the folder of stored files, and when a running job last showed a sign of life"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "store",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_store"),
    )
    op.add_column("job", sa.Column("heard", sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "heard")
    op.drop_table("store")
