"""Fixtures that every room may use. Add a module here, not a fixture."""

pytest_plugins = [
    "tests.support.databases",
]
