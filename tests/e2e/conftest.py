"""Systems for the tests of this room: one that all may use, and one for those that break it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System, running


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system that every test leaves as it found it."""
    with running(tmp_path_factory.mktemp("shared") / "home") as running_system:
        yield running_system


@pytest.fixture(scope="module")
def own_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system of the module's own, to be stopped, killed and loaded."""
    with running(tmp_path_factory.mktemp("own") / "home") as running_system:
        yield running_system


@pytest.fixture
def stopped_system(tmp_path: Path) -> Iterator[System]:
    """A system that has not been started yet."""
    system = System(tmp_path / "home")
    yield system
    system.close()
