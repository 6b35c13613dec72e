"""What a tenant can do to the Slurm driver from its own Unix user, and what it cannot."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tramontane.drivers.slurm import folders, jobs
from tramontane.drivers.slurm.dialects.records import SlurmJob
from tramontane.drivers.slurm.folders import Folders
from tramontane.drivers.slurm.known import Known
from tramontane.drivers.slurm.listing import Seen

INS = "ins_aaaaaaaaaaaaaaaaaaaa"
REP = "rep_aaaaaaaaaaaaaaaaaaaa"
ATT = "att_aaaaaaaaaaaaaaaaaaaa"
USERS = {"victim", "attacker"}
MINE = SlurmJob(7, ATT, "victim", f"tramontane:{INS}:{ATT}", frozenset({"PENDING"}), node_count=1)


@pytest.mark.parametrize("states", [{"RUNNING"}, {"COMPLETED"}, {"PENDING"}])
def test_a_copied_mark_takes_nothing_from_its_owner(states: set[str]) -> None:
    copied = replace(MINE, job_id=8, user="attacker", states=frozenset(states), nodes=("n1",))
    listed = jobs.ours([copied, MINE], INS, USERS)
    assert listed == {ATT: (MINE,)}
    assert jobs.surplus(listed[ATT]) == ()
    # It is the victim who pays for what accounting tells by that name.
    assert jobs.best_of([copied, MINE]) == {ATT: MINE}


@pytest.mark.parametrize("launch", ["[" * 100_000, "[1]", '{"env": 1}', '{"env": [[]]}', "\xff"])
def test_a_launch_that_no_parser_takes_hides_no_log(tmp_path: Path, launch: str) -> None:
    run_dir = tmp_path / "tenant" / "replicas" / REP
    run_dir.mkdir(parents=True)
    (run_dir / "engine.log").write_text("a line\n")
    (run_dir / "launch.json").write_text(launch, encoding="latin-1")
    assert Folders(tmp_path).last_lines(REP, ("tenant", "replicas", REP), 10) == ["a line"]


@pytest.mark.slow
def test_a_shared_folder_that_hangs_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does while its server is away; control planes have only so many threads."""
    gate = threading.Event()
    monkeypatch.setattr(folders, "read_tail", lambda *_, **__: gate.wait(20))
    shared, place = Folders(tmp_path, limit_s=0.05), ("tenant", "replicas", REP)
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(TimeoutError, match="does not answer"):
            shared.last_lines(REP, place, 10)
    with pytest.raises(TimeoutError):
        shared.remove(place)
    with pytest.raises(TimeoutError):
        shared.read((*place, "x", "y"), 0, 0, 10)
    assert time.monotonic() - began < 5
    gate.set()


def test_a_job_that_slurm_lost_is_not_taken_over() -> None:
    """Without the first one in the listing, the copied mark is all that it shows."""
    known = Known()
    copied = replace(MINE, job_id=8, user="attacker", states=frozenset({"RUNNING"}), nodes=("n1",))
    known.merge(Seen(jobs={ATT: (MINE,)}, jobs_at=1.0), 1.0)
    known.merge(Seen(jobs={ATT: (copied,)}, jobs_at=2.0), 2.0)
    entry = known.get(ATT)
    assert entry is not None
    assert entry.job == MINE
