"""A Slurm cluster of many nodes on this machine: real daemons, null devices for GPUs.

Everything is in one folder and below one process (`keeper`): no file of the system is read or
written, so several clusters run side by side, and none outlives the process that started it.
"""

import os
import pwd
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tramontane.dev.slurm import packages, tokens
from tramontane.dev.slurm.config import ClusterConfig, Layout
from tramontane.dev.slurm.daemons import Daemon, daemons
from tramontane.dev.slurm.folders import fill_folder, make_folder
from tramontane.dev.slurm.ports import BLOCK, PortBlock
from tramontane.dev.slurm.processes import POLL_S, Processes, SlurmClusterError

START_LIMIT_S: Final = 120.0  # for one daemon, on a machine that is busy with other things
COMMAND_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 5.0
_OTHER_PORTS: Final = 3  # slurmctld, slurmdbd, slurmrestd
NODES_MAX: Final = BLOCK - _OTHER_PORTS - 53  # a few ports of a block may be taken by others
_USABLE: Final = frozenset({"idle", "mixed", "allocated", "completing"})
_RESPONDING: Final = _USABLE | {"draining", "drained"}


class SlurmCluster:
    """One cluster; `start` returns when every node is idle, `stop` when nothing is left.

    A context manager does both. Raises `SlurmClusterError` with the end of a log when a daemon
    does not come up. Daemons are named ``munged``, ``mariadbd``, ``slurmdbd``, ``slurmctld``,
    ``slurmrestd`` and ``slurmd:NODE``.
    """

    def __init__(
        self,
        config: ClusterConfig | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config = config or ClusterConfig()
        self.racks: dict[str, list[str]] = self.config.racks_by_name()
        self.node_names: list[str] = [name for names in self.racks.values() for name in names]
        self._progress = progress
        self._processes: Processes | None = None
        self._layout: Layout | None = None
        self._ports: PortBlock | None = None
        self._daemons: dict[str, Daemon] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """Everything of the cluster; logs are in ``log``."""
        return self._placed.folder

    @property
    def conf(self) -> Path:
        """The slurm.conf, for SLURM_CONF."""
        return self._placed.conf

    @property
    def jwt_key(self) -> Path:
        """The key that signs tokens; root alone may read it."""
        return self._placed.jwt_key

    @property
    def rest_url(self) -> str:
        """Where slurmrestd listens, without a path."""
        return f"http://127.0.0.1:{self._placed.rest_port}"

    @property
    def name(self) -> str:
        """The cluster's name in Slurm, another one for each start."""
        return self._placed.name

    @property
    def work_root(self) -> Path:
        """A folder with a folder for each user that `add_user` named."""
        return self.folder / "work"

    @property
    def pids(self) -> dict[str, int]:
        """The last pid of each daemon by its name."""
        return dict(self._running.pids)

    def alive(self) -> set[str]:
        """Return the names of the daemons that run."""
        return {name for name in self._running.pids if self._running.is_alive(name)}

    def env(self) -> dict[str, str]:
        """Return this process's environment with what commands of Slurm need to find us."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return own | {"SLURM_CONF": str(self.conf)}

    def run(self, *argv: str) -> str:
        """Run a command of Slurm and return what it prints; raise with what it complained of."""
        done = subprocess.run(
            argv,
            env=self.env(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        if done.returncode:
            told = (done.stderr or done.stdout).strip()
            raise SlurmClusterError(f"{' '.join(argv)} left with {done.returncode}: {told}")
        return done.stdout

    def token(self, user: str, lifespan_s: int = 3_600) -> str:
        """Return a token for slurmrestd, to be sent with the user's name."""
        return tokens.sign(self.jwt_key.read_bytes(), user, lifespan_s)

    def add_user(self, name: str, account: str | None = None) -> Path:
        """Make the Unix user, unless there is one, and return its folder under `work_root`.

        Slurm takes jobs only of users with an account; ``account`` is made too where it is named.
        """
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            useradd = [packages.program("useradd"), "--system", "--user-group"]
            login = ["--no-create-home", "--shell", "/usr/sbin/nologin", name]
            subprocess.run([*useradd, *login], check=True, capture_output=True)
            found = pwd.getpwnam(name)
        folder = self.work_root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, found.pw_uid, found.pw_gid)
        if account is not None:
            if not self.run("sacctmgr", "-nP", "list", "account", account).strip():
                self.run("sacctmgr", "-i", "add", "account", account)
            if not self.run("sacctmgr", "-nP", "list", "assoc", f"user={name}").strip():
                self.run("sacctmgr", "-i", "add", "user", name, f"account={account}")
        return folder

    def kill(self, daemon: str) -> None:
        """Kill a daemon with SIGKILL; return when it is gone. Jobs go on, also without slurmd."""
        self._running.signal(daemon, signal.SIGKILL)

    def pause(self, daemon: str) -> None:
        """Stop a daemon with SIGSTOP: it takes connections and never answers, until `resume`."""
        self._running.signal(daemon, signal.SIGSTOP)

    def resume(self, daemon: str) -> None:
        """Let a paused daemon go on."""
        self._running.signal(daemon, signal.SIGCONT)

    def lose_node(self, node: str) -> None:
        """Kill a node's slurmd and every process of its jobs at once, as a power cut would."""
        steps = self.folder / "log" / f"steps-{node}.log"  # slurmstepd holds it open
        self._running.kill_with_steps(f"slurmd:{node}", steps)

    def restart(self, daemon: str) -> None:
        """Start a daemon again, killed first if it runs; return when it answers."""
        self.kill(daemon)
        self._start(daemon)
        self._until_ready(daemon)

    def until_nodes_respond(self, limit_s: float = START_LIMIT_S) -> None:
        """Wait until the controller hears every node, or raise after the limit."""
        give_up_at = time.monotonic() + limit_s
        while True:
            states = self._states()
            if len(states) == len(self.node_names) and set(states.values()) <= _RESPONDING:
                return
            if time.monotonic() > give_up_at:
                raise SlurmClusterError(f"not every node responds: {states}")
            time.sleep(POLL_S)

    def heal(self, limit_s: float = START_LIMIT_S) -> None:
        """Bring the cluster back to how a start leaves it: all daemons, no job, every node idle.

        Accounts, users and QOS stay.
        """
        for name in self._daemons:
            self.resume(name)
            if not self._running.is_alive(name):
                self._start(name)
                self._until_ready(name)
        self.until_nodes_respond(limit_s)
        give_up_at = time.monotonic() + limit_s
        while jobs := self.run("squeue", "--noheader", "--format=%A").split():
            if time.monotonic() > give_up_at:
                raise SlurmClusterError(f"jobs do not end: {', '.join(jobs)}")
            self.run("scancel", "--quiet", *jobs)
            time.sleep(POLL_S)
        for node, state in self._states().items():
            if state.rstrip("*") not in _USABLE:
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        while set(self._states().values()) != {"idle"}:
            if time.monotonic() > give_up_at:
                raise SlurmClusterError(f"not every node became idle: {self._states()}")
            time.sleep(POLL_S)

    def start(self) -> None:
        """Start everything; after a failure nothing is left."""
        if lacking := packages.missing():
            wanted = f"sudo apt-get install --no-install-recommends {' '.join(lacking)}"
            raise SlurmClusterError(f"a Slurm cluster needs Debian packages: {wanted}")
        if os.geteuid() != 0:
            raise SlurmClusterError("a Slurm cluster runs jobs as other users: start it as root")
        if len(self.node_names) > NODES_MAX:
            raise SlurmClusterError(f"a Slurm cluster has at most {NODES_MAX} nodes here")
        assert self._processes is None, "the cluster runs already"
        try:
            self._ports = PortBlock(_OTHER_PORTS + len(self.node_names))
            folder = make_folder(self.config.folder)
            self._processes = Processes(folder, is_kept=self.config.is_kept)
            self._layout = self._lay_out(folder, self._ports)
            fill_folder(self.config, self._layout)
            self._daemons = daemons(self._layout)
            self._bring_up()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process of the cluster, jobs too, and remove the folder unless it is kept."""
        if self._processes is not None:
            if self.config.is_kept:  # what is removed need not be saved
                self._processes.terminate(list(self._processes.pids), STOP_LIMIT_S)
            self._processes.close()
            self._processes = None
        if self._ports is not None:
            self._ports.release()
            self._ports = None

    def _states(self) -> dict[str, str]:
        """Return the state of each node; an asterisk says that it does not respond."""
        shown = self.run("sinfo", "--noheader", "--Node", "--format=%N %T")
        return dict(line.split() for line in shown.splitlines())

    def _lay_out(self, folder: Path, ports: PortBlock) -> Layout:
        return Layout(
            folder=folder,
            name=f"dev{secrets.token_hex(4)}",
            controller_port=ports.take(),
            database_daemon_port=ports.take(),
            rest_port=ports.take(),
            node_ports={name: ports.take() for name in self.node_names},
        )

    def _bring_up(self) -> None:
        began_at = time.monotonic()

        def told(what: str) -> None:
            self._progress(f"{time.monotonic() - began_at:4.1f} s  {what}")

        self._start("munged", "mariadbd")
        self._until_ready("munged", "mariadbd")
        told("munged and MariaDB answer")
        self._start("slurmdbd")
        self._until_ready("slurmdbd")
        self.run("sacctmgr", "-i", "add", "cluster", self.name)  # slurmctld ends without it
        told("slurmdbd answers")
        self._start("slurmctld", "slurmrestd", *(f"slurmd:{name}" for name in self.node_names))
        self._until_ready("slurmctld", "slurmrestd")
        told("slurmctld and slurmrestd answer")
        self.until_nodes_respond()
        told(f"{len(self.node_names)} nodes are idle")

    def _start(self, *names: str) -> None:
        for name in names:
            daemon = self._daemons[name]
            self._running.start(name, daemon.argv, {**self.env(), **daemon.env}, daemon.user)

    def _until_ready(self, *names: str) -> None:
        for name in names:
            at = self._daemons[name].answers_at
            self._running.until(name, lambda at=at: _answers(at), START_LIMIT_S)

    @property
    def _placed(self) -> Layout:
        assert self._layout is not None, "the cluster was not started"
        return self._layout

    @property
    def _running(self) -> Processes:
        assert self._processes is not None, "the cluster does not run"
        return self._processes


def _answers(at: Path | tuple[str, int]) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(at, Path) else socket.AF_INET) as probe:
        try:
            probe.connect(str(at) if isinstance(at, Path) else at)
        except OSError:
            return False
    return True
