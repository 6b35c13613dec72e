"""What a model can do, and which model an adapter was made for."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"

INT64: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add them. Of what was imported before, nothing is known until it is imported again."""
    op.add_column("model_versions", sa.Column("capabilities", sa.Text(), nullable=True))
    op.add_column("model_versions", sa.Column("base_model_id", sa.Text(), nullable=True))
    op.add_column("model_versions", sa.Column("adapter_rank", INT64, nullable=True))
