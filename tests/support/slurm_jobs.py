"""Jobs on an installation's Slurm cluster, as tests see them: over HTTP, in `/proc`, in `sacct`."""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.system import System
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster

OVER: Final = frozenset({"succeeded", "failed", "cancelled"})
MEMORY_BYTES: Final = 100 << 20
# A script that waits until the test opens its gate; `Jobs.open_gate` does.
GATE: Final = 'until [ -e "$TRAMONTANE_CHECKPOINT_DIR/open" ]; do sleep 0.05; done\n'


@dataclass(frozen=True)
class Accounted:
    """One line of ``sacct``; times in seconds of the epoch, None for what never started."""

    name: str
    user: str
    state: str
    started_s: int | None
    ended_s: int | None
    devices: int


class Jobs:
    """The jobs of one tenant: whose ``key`` it is, under ``user`` of the nodes."""

    def __init__(
        self, system: System, slurm: SlurmCluster, key: str | None = None, user: str = "tmt-a"
    ) -> None:
        self.system = system
        self.slurm = slurm
        self.key = key or system.api_key
        self.user = user

    def submit(self, name: str, script: str, **wish: Any) -> str:
        """Submit a job of little memory and return its id."""
        body = {"name": name, "script": script, "memory_bytes": MEMORY_BYTES} | wish
        return self.system.cloud("POST", "/jobs", key=self.key, json=body)["id"]

    def get(self, job_id: str) -> dict[str, Any]:
        """Return the job."""
        return self.system.cloud("GET", f"/jobs/{job_id}", key=self.key)

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """Return all attempts at the job."""
        path, limit = f"/jobs/{job_id}/attempts", {"limit": 100}
        return self.system.cloud("GET", path, key=self.key, params=limit)["data"]

    def attempt_statuses(self, job_id: str) -> list[str]:
        """Return how each attempt is."""
        return [attempt["status"] for attempt in self.attempts(job_id)]

    def until(self, job_id: str, *statuses: str, limit_s: float = 60) -> dict[str, Any]:
        """Wait until the job has one of these statuses; fail at once when it ended otherwise."""

        def look() -> dict[str, Any] | None:
            job = self.get(job_id)
            if job["status"] in statuses:
                return job
            assert job["status"] not in OVER, (job, self.attempts(job_id))
            return None

        try:
            return until(look, f"{job_id} to be {' or '.join(statuses)}", limit_s)
        except AssertionError as error:
            story = self.system.pages("/events", subject=job_id)
            told = [event["message"] for event in story]
            why = f"{error}\n{self.get(job_id)}\n{told}\n{queue_and_nodes(self.slurm)}"
            raise AssertionError(why) from None

    def log(self, job_id: str, **which: Any) -> str:
        """Return what the newest attempt wrote, or the one that ``which`` says."""
        with self.follow(job_id, **which) as pieces:
            return "".join(pieces)

    @contextlib.contextmanager
    def follow(self, job_id: str, **which: Any) -> Iterator[Iterator[str]]:
        """Give the output as it comes, until the attempt is over."""
        headers = {"authorization": f"Bearer {self.key}"}
        url = f"{self.system.root}/cloud/v1/jobs/{job_id}/logs"
        params = {"follow": True, **which}
        with (
            httpx.Client(timeout=30, trust_env=False) as client,
            client.stream("GET", url, headers=headers, params=params) as reply,
        ):
            assert reply.status_code == 200, reply.read()
            yield reply.iter_text()

    def cancel(self, job_id: str) -> None:
        """Ask for its end."""
        self.system.cloud("POST", f"/jobs/{job_id}/cancel", key=self.key)

    def folder(self, job_id: str) -> Path:
        """Return the job's folder on the shared file system."""
        return self.slurm.work_root / self.user / "jobs" / job_id

    def open_gate(self, job_id: str) -> None:
        """Let a script that waits at its `GATE` go on, in this attempt and all others."""
        folder = self.folder(job_id) / "checkpoint"
        until(folder.is_dir, "its folder: Slurm tells of a start before the runner makes it")
        (folder / "open").touch()


def queue_and_nodes(slurm: SlurmCluster) -> str:
    """Return what Slurm itself says of all jobs and nodes, and its controller's last words."""
    jobs = slurm.run("squeue", "--all", "--states=all", "--format=%A %j %T %r %N %e")
    nodes = slurm.run("scontrol", "--oneliner", "show", "nodes")
    kept = "NodeName=", "State=", "AllocTRES=", "GresUsed=", "Reason="
    held = [
        " ".join(word for word in line.split() if word.startswith(kept))
        for line in nodes.splitlines()
    ]
    words = (slurm.folder / "log" / "slurmctld.log").read_text().splitlines()[-40:]
    return "\n".join([jobs, *held, *words])


def processes_of(job_id: str) -> list[str]:
    """Return the command lines of processes of the job, wherever they were moved to."""
    mark = f"TRAMONTANE_JOB={job_id}".encode()
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes()
                    found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def accounted(slurm: SlurmCluster, names: Collection[str] = ()) -> list[Accounted]:
    """Return what the cluster's accounting knows of the jobs with these names, or of all."""
    form = "--format=JobName%60,User,State%30,Start,End,AllocTRES%100"
    printed = slurm.run("sacct", "-X", "-n", "-P", "--duplicates", "--allusers", form)
    rows = [line.split("|") for line in printed.splitlines()]
    return [
        Accounted(name, user, state.split()[0], _seconds(start), _seconds(end), _gpus(tres))
        for name, user, state, start, end, tres in rows
        if not names or name in names
    ]


def _seconds(text: str) -> int | None:
    """Return a moment as sacct prints it, in local time, as seconds of the epoch."""
    if text in {"Unknown", "None", ""}:
        return None
    return int(datetime.fromisoformat(text).astimezone().timestamp())


def _gpus(tres: str) -> int:
    amounts = dict(item.split("=", 1) for item in tres.split(",") if item)
    return int(amounts.get("gres/gpu", 0))
