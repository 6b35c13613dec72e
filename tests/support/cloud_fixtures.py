"""Fixtures: a fresh cloud for each test, or one shared by a module's harmless tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloud import Cloud


@pytest.fixture
def cloud(sqlite_template: Path, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud of its own."""
    yield from _made(sqlite_template, tmp_path)


@pytest.fixture(scope="module")
def shared_cloud(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    """A cloud that tests share which change nothing."""
    yield from _made(sqlite_template, tmp_path_factory.mktemp("cloud"))


@pytest.fixture
def empty_cloud(sqlite_template: Path, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud before its first start."""
    path = tmp_path / "empty-cloud.sqlite"
    shutil.copy(sqlite_template, path)
    cloud = Cloud(f"sqlite:///{path}", tmp_path, is_started=False)
    yield cloud
    cloud.close()


def _made(template: Path, folder: Path) -> Iterator[Cloud]:
    path = folder / "tramontane.sqlite"
    shutil.copy(template, path)
    cloud = Cloud(f"sqlite:///{path}", folder)
    yield cloud
    cloud.close()
