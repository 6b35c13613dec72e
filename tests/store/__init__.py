"""The store's tests: each runs on SQLite and on PostgreSQL."""
