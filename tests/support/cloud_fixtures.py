"""Fixtures: a fresh cloud for each test, or one shared by a module's harmless tests.

The first start takes a moment, so it is made once and the database copied.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloud import Cloud, Started

Template = tuple[Path, Started]


@pytest.fixture(scope="session")
def cloud_template(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A database after the first start, and what that made."""
    folder = tmp_path_factory.mktemp("cloud-template")
    path = folder / "tramontane.sqlite"
    shutil.copy(sqlite_template, path)
    cloud = Cloud(f"sqlite:///{path}", folder)
    started = cloud.start()
    cloud.close()
    return path, started


@pytest.fixture
def cloud(cloud_template: Template, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud of its own."""
    yield from _copied(cloud_template, tmp_path)


@pytest.fixture(scope="module")
def shared_cloud(
    cloud_template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    """A cloud that tests share which change nothing."""
    yield from _copied(cloud_template, tmp_path_factory.mktemp("cloud"))


@pytest.fixture
def empty_cloud(sqlite_template: Path, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud before its first start."""
    path = tmp_path / "empty-cloud.sqlite"
    shutil.copy(sqlite_template, path)
    cloud = Cloud(f"sqlite:///{path}", tmp_path)
    yield cloud
    cloud.close()


def _copied(template: Template, folder: Path) -> Iterator[Cloud]:
    source, started = template
    path = folder / "tramontane.sqlite"
    shutil.copy(source, path)
    cloud = Cloud(f"sqlite:///{path}", folder, started)
    yield cloud
    cloud.close()
