"""Fixtures that every room may use (add a module here, not a fixture), and how hard to search.

`make check` asks Hypothesis for the profile ``quick``: few examples, the same ones each time, so
that what stops a commit is what it changed. Everything else searches with ``thorough``. No test
sets a number of examples or a deadline of its own: other work on the machine decides how long an
example takes.
"""

import signal

import pytest
from hypothesis import settings

# Checks that several test files share say what they compared, too.
pytest.register_assert_rewrite("tests.support", "tests.drivers")

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that
# a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("thorough", max_examples=200, deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("thorough")

pytest_plugins = [
    "tests.support.databases",
]
