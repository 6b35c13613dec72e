"""The folders of ended jobs on a shared file system: found, removed piece by piece, no other's."""

import os
from pathlib import Path

import pytest

from tests.support.planning import typed_id
from tramontane.domain import ids
from tramontane.domain.launch import Tenancy
from tramontane.drivers.slurm.folders import Folders
from tramontane.drivers.slurm.orders import job_places
from tramontane.runtime import tenant_trees
from tramontane.runtime.clusters import SlurmSettings

JOB = typed_id(ids.JOB, 1)
SETTINGS = SlurmSettings(
    "alps", "http://x", Path("k"), Path("w"), users={"acme": "u-acme", "globex": "u-globex"}
)


def make(root: Path, user: str, files: int = 1) -> Path:
    """Make what a job left in its tenant's folder."""
    folder = root / user / "jobs" / JOB
    (folder / "attempts" / "att").mkdir(parents=True)
    (folder / "work").mkdir()
    for number in range(files):
        (folder / "work" / f"f{number}").touch()
    return folder


def test_the_tenants_own_user_comes_first_and_the_others_after() -> None:
    places = job_places(SETTINGS, JOB, Tenancy("globex", "lab"))
    assert places == (("u-globex", "jobs", JOB), ("u-acme", "jobs", JOB))
    places = job_places(SETTINGS, JOB, Tenancy("initech", "lab"))
    assert {user for user, _, _ in places} == {"u-acme", "u-globex"}, "it has no user any more"


def test_a_folder_of_that_name_at_another_tenant_stays(tmp_path: Path) -> None:
    own, other = make(tmp_path, "u-acme"), make(tmp_path, "u-globex")
    assert Folders(tmp_path).remove_first(job_places(SETTINGS, JOB, Tenancy("acme", "web")))
    assert not own.exists()
    assert own.parent.exists()
    assert (other / "work" / "f0").exists()


def test_a_folder_is_found_where_it_was_before_the_settings_changed(tmp_path: Path) -> None:
    before = make(tmp_path, "u-globex")
    places, folders = job_places(SETTINGS, JOB, Tenancy("acme", "web")), Folders(tmp_path)
    assert folders.remove_first(places)
    assert not before.exists()
    assert folders.remove_first(places), "what is gone is gone"


def test_a_large_folder_goes_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tenant_trees.remove_piece.__kwdefaults__ or {}, "entries_max", 10)
    folder, calls = make(tmp_path, "u-acme", files=25), 1
    places, folders = job_places(SETTINGS, JOB, Tenancy("acme", "web")), Folders(tmp_path)
    while not folders.remove_first(places):
        calls += 1
        assert calls < 10
    assert calls >= 3
    assert not folder.exists()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", "u-acme")
    (tmp_path / "root" / "u-acme").mkdir(parents=True)
    (tmp_path / "root" / "u-acme" / "jobs").symlink_to(outside.parent)
    places = job_places(SETTINGS, JOB, Tenancy("acme", "web"))
    with pytest.raises(OSError, match=r"symbolic|Not a directory"):
        Folders(tmp_path / "root").remove_first(places)
    assert (outside / "work" / "f0").exists()


def test_a_file_server_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    folders = Folders(tmp_path, limit_s=0.05)
    folders._removal._limit_s = 0.05
    make(tmp_path, "u-acme")
    reading, writing = os.pipe()  # whoever reads from it waits
    try:
        for _ in range(6):
            with pytest.raises(TimeoutError, match="does not answer"):
                folders._removal.run(lambda: os.read(reading, 1))
        with pytest.raises(TimeoutError):
            folders.remove_first(job_places(SETTINGS, JOB, Tenancy("acme", "web")))
        assert folders.read(("u-acme", "jobs", JOB, "attempts", "att"), 0, 0, 5) == b""
    finally:
        os.close(writing)
        os.close(reading)
