"""the accuracy that a model is said to have"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model", sa.Column("declared_accuracy", sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    op.drop_column("model", "declared_accuracy")
