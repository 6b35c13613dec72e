"""The tables' history: one file per revision, run in-process by Alembic.

To add one: change `store/tables.py`, write ``versions/NNNN_what.py`` (downgrades are not kept:
restore a backup), append its number to `revisions.REVISIONS`. A test compares both on SQLite and
on PostgreSQL.
"""
