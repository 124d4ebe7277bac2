"""attempts that an outage ended, and what keeps a worker from work"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("outages", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("not_before", sa.Float(precision=53), nullable=True))
    op.add_column("job", sa.Column("waits", sa.Text(), nullable=True))
    op.add_column("worker", sa.Column("trouble", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("worker", "trouble")
    for column in ("waits", "not_before", "outages"):
        op.drop_column("job", column)
