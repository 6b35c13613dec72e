"""Classes that a quota lets be asked for; `reserved` stays open to those who have used it."""

import os
import time
from typing import Final

import sqlalchemy as sa
from alembic import op

from tramontane.domain import ids

revision: Final = "0011"
down_revision: Final = "0010"

_ALL: Final = '["reserved","standard","spot"]'
# The field of a spec as it is stored; inside of a text its quotes would be escaped.
_RESERVED: Final = '%"priority!_class":"reserved"%'
_USERS: Final = """
SELECT DISTINCT organization_id FROM projects WHERE id IN (
    SELECT project_id FROM jobs WHERE spec LIKE :reserved ESCAPE '!'
    UNION
    SELECT project_id FROM deployments WHERE spec LIKE :reserved ESCAPE '!'
)
"""
_UPDATE: Final = "UPDATE quotas SET priority_classes = :classes WHERE subject_id = :owner"
_INSERT: Final = """
INSERT INTO quotas (id, scope, subject_id, share, priority_classes, created_at_ms)
VALUES (:id, 'organization', :owner, 1, :classes, :now_ms)
"""


def upgrade() -> None:
    """Add them. An organization that has asked for `reserved` gets a quota that names it.

    Until here every tenant could ask for it; from now on that needs an operator's word.
    """
    op.add_column("quotas", sa.Column("priority_classes", sa.Text(), nullable=True))
    connection = op.get_bind()
    users = connection.execute(sa.text(_USERS), {"reserved": _RESERVED}).scalars().all()
    for owner in users:
        values = {"owner": owner, "classes": _ALL}
        if connection.execute(sa.text(_UPDATE), values).rowcount:
            continue
        new_id = ids.make_id(ids.QUOTA, os.urandom(ids.ENTROPY_BYTES))
        now_ms = time.time_ns() // 1_000_000
        connection.execute(sa.text(_INSERT), values | {"id": new_id, "now_ms": now_ms})
