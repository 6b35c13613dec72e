"""What attempts cost is what Slurm's own accounting says, whatever became of them."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest

from tests.support.slurm_jobs import GATE, Jobs, accounted
from tests.support.slurm_system import running_on
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster
from tramontane.dev.slurm.config import ClusterConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

APART_S_MAX: Final = 1
FLAKY: Final = 'sleep 0.3; [ "$TRAMONTANE_ATTEMPT_NUMBER" -ge 2 ]'
# Slurm's words for what became of a job, by ours. To Slurm a command that the runner ended failed.
WORDS: Final = {
    "succeeded": {"COMPLETED"},
    "failed": {"FAILED"},
    "timed_out": {"FAILED", "TIMEOUT"},
    "cancelled": {"CANCELLED", "FAILED"},
    "preempted": {"PREEMPTED"},
    "node_failed": {"NODE_FAIL"},
}


@pytest.fixture
def jobs(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with running_on(slurm, tmp_path_factory.mktemp("cost") / "home") as system:
        yield Jobs(system, slurm)


def settled(jobs: Jobs, job_ids: list[str], limit_s: float) -> list[dict[str, Any]]:
    """Wait until all jobs are over and accounted; return their attempts."""

    def look() -> list[dict[str, Any]] | None:
        if any(jobs.get(job_id)["status"] in {"pending", "running"} for job_id in job_ids):
            return None
        found = [attempt for job_id in job_ids for attempt in jobs.attempts(job_id)]
        return found if all(attempt["is_accounted"] for attempt in found) else None

    return until(look, "the accounts", limit_s)


def check_accounts(slurm: SlurmCluster, attempts: list[dict[str, Any]]) -> None:
    """Compare each attempt with the one line that ``sacct`` has of it."""
    rows = accounted(slurm, {attempt["id"] for attempt in attempts})
    assert len(rows) == len(attempts), "one attempt, one job"
    by_name = {row.name: row for row in rows}
    for attempt in attempts:
        row = by_name[attempt["id"]]
        told = (attempt, row)
        assert row.state in WORDS[attempt["status"]], told
        if row.started_s is None or attempt["started_at_ms"] is None:
            assert (attempt["started_at_ms"], attempt["device_seconds"]) == (None, 0), told
            assert row.devices == 0, told
            continue
        assert row.ended_s is not None, told
        assert abs(attempt["started_at_ms"] / 1_000 - row.started_s) <= APART_S_MAX, told
        assert abs(attempt["ended_at_ms"] / 1_000 - row.ended_s) <= APART_S_MAX, told
        assert attempt["devices"] == row.devices, told
        spent = row.devices * (row.ended_s - row.started_s)
        assert abs(attempt["device_seconds"] - spent) <= APART_S_MAX * row.devices, told


def test_a_mixed_day_costs_what_the_accounting_says(jobs: Jobs, slurm: SlurmCluster) -> None:
    half: dict[str, Any] = {"nodes": 2, "devices": 4, "priority_class": "spot"}
    spots = [jobs.submit(f"spot-{n}", f"sleep 1; {GATE}", **half) for n in range(2)]
    held = jobs.submit("held", "sleep 1", nodes=2, devices=4, depends_on=[spots[0]])
    for job_id in spots:
        jobs.until(job_id, "running")
    ended = [jobs.submit(f"fine-{n}", f"sleep 0.{n}", devices=n % 4 + 1) for n in range(10)]
    until(lambda: "preempted" in jobs.attempt_statuses(spots[1]), "an eviction")
    for job_id in spots:
        jobs.open_gate(job_id)
    ended += [jobs.submit(f"flaky-{n}", FLAKY, devices=1, retries=1) for n in range(3)]
    ended += [jobs.submit(f"late-{n}", "sleep 600", devices=2, time_limit_s=1) for n in range(2)]
    ended += [jobs.submit("bad", "exit 9", devices=3)]
    array = jobs.submit("array", "sleep 0.2", devices=1, array=4)
    runs = [jobs.submit(f"runs-{n}", "sleep 600", devices=1) for n in range(2)]
    waits = jobs.submit("waits", "sleep 600", nodes=4, devices=4)
    for job_id in runs:
        jobs.until(job_id, "running")
    for job_id in (*runs, waits):
        jobs.cancel(job_id)
    attempts = settled(jobs, [*spots, held, *ended, array, *runs, waits], 60)
    check_accounts(slurm, attempts)
    fates = [attempt["status"] for attempt in attempts]
    assert len(fates) >= 28
    for fate, least in (("preempted", 1), ("failed", 4), ("timed_out", 2), ("cancelled", 3)):
        assert fates.count(fate) >= least, (fate, fates)
    bill = jobs.system.cloud("GET", "/usage/attempts", params={"limit": 100})
    assert bill["open_attempts"] == 0
    spent = sum(attempt["device_seconds"] for attempt in attempts)
    assert sum(total["device_seconds"] for total in bill["totals"]) == spent > 0
    assert sum(line["device_seconds"] for line in bill["data"]) == spent


def test_what_slurm_forgot_is_in_the_accounting(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = ClusterConfig(racks=1, nodes_per_rack=2, gpus=2, min_job_age_s=2, kill_wait_s=5)
    home = tmp_path_factory.mktemp("forgotten") / "home"
    with SlurmCluster(config) as slurm, running_on(slurm, home) as system:
        jobs = Jobs(system, slurm)
        names = {"good": "sleep 3", "bad": "sleep 3; exit 9"}
        made = [jobs.submit(name, script, devices=1) for name, script in names.items()]
        made += [jobs.submit("array", "sleep 3", devices=1, array=2)]
        for job_id in made:
            jobs.until(job_id, "running")
        until(lambda: len(list_jobs(slurm)) >= 4, "all of them")
        system.stop()
        with last_words_taken(system.port):
            until(lambda: not list_jobs(slurm), "Slurm to have forgotten them", 60)
        system.start()
        attempts = settled(jobs, made, 30)
        assert len(attempts) == 4
        check_accounts(slurm, attempts)
        assert [jobs.get(job_id)["status"] for job_id in made] == [
            "succeeded",
            "failed",
            "succeeded",
        ]
        # slurmrestd 22.05 tells 0 of whatever status the accounting has.
        assert [a["exit_code"] or 0 for a in attempts] in ([0, 9, 0, 0], [0, 0, 0, 0])


@contextlib.contextmanager
def last_words_taken(port: int) -> Iterator[None]:
    """Answer the runners in the installation's place and keep nothing of what they say."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"wanted": true}')

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


def list_jobs(slurm: SlurmCluster) -> list[str]:
    """Return the names of the attempts that slurmctld remembers, ended ones too."""
    listed = slurm.run("squeue", "--noheader", "--states=all", "--format=%j").split()
    return [name for name in listed if name.startswith("att_")]
