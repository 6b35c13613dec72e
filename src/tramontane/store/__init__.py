"""The only SQL: rows in, frozen domain values out, on SQLite and on PostgreSQL alike.

Every function takes a `Transaction` first and does nothing outside it, so that a write may be
run again when the database asks for it. Nothing here decides: rules live in the domain.
"""
