"""A Slurm cluster of many nodes on this machine: real daemons, null devices for GPUs.

Everything is in one folder and below one process (`keeper`): no file of the system is read or
written, so several clusters run side by side, and none outlives the process that started it.
"""

import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tramontane.dev.slurm import packages, tokens
from tramontane.dev.slurm.config import (
    REST_USER,
    ClusterConfig,
    Layout,
    gres_conf,
    slurm_conf,
    slurmdbd_conf,
    topology_conf,
)
from tramontane.dev.slurm.ports import PortBlock
from tramontane.dev.slurm.processes import POLL_S, Processes, SlurmClusterError

START_LIMIT_S: Final = 120.0  # for one daemon, on a machine that is busy with other things
COMMAND_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 5.0
MARKER: Final = ".tramontane-dev-slurm"  # in the folders that a start may empty
_OPENAPI: Final = "openapi/v0.0.38,openapi/dbv0.0.38"
_NULL_DEVICE: Final = os.makedev(1, 3)


class SlurmCluster:
    """One cluster; `start` returns when every node is idle, `stop` when nothing is left.

    A context manager does both. Raises `SlurmClusterError` with the end of a log when a daemon
    does not come up.
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

    # -- what is where ------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Everything of the cluster."""
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
        """Pids by daemon: ``slurmctld``, ``slurmd:r1n1``, ``slurmrestd`` and so on."""
        return dict(self._running.pids)

    def env(self) -> dict[str, str]:
        """Return this process's environment with what commands of Slurm need to find us."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return own | {"SLURM_CONF": str(self.conf)}

    # -- use ----------------------------------------------------------------------------------

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

    def add_user(self, name: str) -> Path:
        """Make the Unix user, unless there is one, and return its folder under `work_root`."""
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            useradd = [packages.program("useradd"), "--system", "--no-create-home"]
            login = ["--shell", "/usr/sbin/nologin", "--user-group", name]
            subprocess.run([*useradd, *login], check=True, capture_output=True)
            account = pwd.getpwnam(name)
        folder = self.work_root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, account.pw_uid, account.pw_gid)
        return folder

    def kill(self, daemon: str) -> None:
        """Kill a daemon with SIGKILL; return when it is gone. Jobs go on."""
        if daemon not in self._running.pids:
            raise SlurmClusterError(f"no daemon {daemon}; there are {', '.join(self.pids)}")
        self._running.kill(daemon)

    def restart(self, daemon: str) -> None:
        """Start a daemon again, ended first if it runs; return when it answers."""
        self.kill(daemon)
        self._start(daemon)
        self._until_ready(daemon)

    # -- start and stop -----------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; on any failure nothing is left."""
        if lacking := packages.missing():
            wanted = f"sudo apt-get install --no-install-recommends {' '.join(lacking)}"
            raise SlurmClusterError(f"a Slurm cluster needs Debian packages: {wanted}")
        if os.geteuid() != 0:
            raise SlurmClusterError("a Slurm cluster runs jobs as other users: start it as root")
        assert self._processes is None, "the cluster was started before"
        folder = self._prepare()
        try:
            self._processes = Processes(folder, is_kept=self.config.is_kept)
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

    def _prepare(self) -> Path:
        """Make the folder with configuration, keys and devices; nothing runs yet."""
        config = self.config
        self._ports = PortBlock(3 + len(self.node_names))
        folder = _emptied(config.folder) if config.folder else _temporary()
        self._layout = layout = Layout(
            folder=folder,
            name=f"dev{secrets.token_hex(4)}",
            controller_port=self._ports.take(),
            database_daemon_port=self._ports.take(),
            rest_port=self._ports.take(),
            node_ports={name: self._ports.take() for name in self.node_names},
        )
        for part in ("etc", "run", "log", "state", "spool", "dev", "munge", "work"):
            (folder / part).mkdir()
        (folder / "keys").mkdir(mode=0o700)
        for node in self.node_names:
            (folder / "spool" / node).mkdir()
        for index in range(config.gpus):
            device = folder / "dev" / f"gpu{index}"
            os.mknod(device, 0o666 | stat.S_IFCHR, _NULL_DEVICE)
        layout.conf.write_text(slurm_conf(config, layout))
        (folder / "etc" / "gres.conf").write_text(gres_conf(config, layout))
        (folder / "etc" / "topology.conf").write_text(topology_conf(config))
        layout.dbd_conf.touch(mode=0o600)
        layout.dbd_conf.write_text(slurmdbd_conf(layout))
        for key, size in ((layout.jwt_key, 32), (layout.munge_key, 128)):
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(size))
        return folder

    def _bring_up(self) -> None:
        began_at = time.monotonic()

        def told(what: str) -> None:
            self._progress(f"{time.monotonic() - began_at:5.1f} s  {what}")

        nodes = [f"slurmd:{name}" for name in self.node_names]
        self._start("munged")
        self._make_database()
        self._start("mariadbd")
        for daemon in ("munged", "mariadbd"):
            self._until_ready(daemon)
        told("munged and MariaDB answer")
        self._start("slurmdbd")
        self._until_ready("slurmdbd")
        told("slurmdbd answers")
        self.run("sacctmgr", "-i", "add", "cluster", self.name)
        for daemon in ("slurmctld", "slurmrestd", *nodes):
            self._start(daemon)
        for daemon in ("slurmctld", "slurmrestd"):
            self._until_ready(daemon)
        told("slurmctld and slurmrestd answer")
        self._until_idle()
        told(f"{len(nodes)} nodes are idle")

    def _make_database(self) -> None:
        layout = self._placed
        subprocess.run(
            [
                packages.program("mariadb-install-db"),
                *("--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"),
                *(f"--datadir={layout.database}", "--user=root", *_INNODB),
            ],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )

    def _start(self, daemon: str) -> None:
        layout = self._placed
        kind, _, node = daemon.partition(":")
        argv, extra, user = [packages.program(kind)], {}, None
        if kind == "munged":
            argv += ["--foreground", "--num-threads=4", f"--socket={layout.munge_socket}"]
            argv += [f"--key-file={layout.munge_key}", f"--pid-file={layout.folder}/run/munged.pid"]
            argv += [f"--log-file={layout.folder}/log/munged.out"]
            argv += [f"--seed-file={layout.folder}/run/munged.seed"]
        elif kind == "mariadbd":
            argv += ["--no-defaults", "--user=root", "--skip-networking", "--skip-grant-tables"]
            argv += [f"--datadir={layout.database}", f"--socket={layout.database_socket}"]
            argv += [f"--pid-file={layout.folder}/run/mariadbd.pid", *_INNODB]
        elif kind == "slurmdbd":
            argv += ["-D"]
            extra = {"MYSQL_UNIX_PORT": str(layout.database_socket)}
        elif kind == "slurmrestd":
            argv += ["-f", str(layout.conf), "-a", "rest_auth/jwt", "-s", _OPENAPI]
            argv += [f"127.0.0.1:{layout.rest_port}"]
            extra, user = {"SLURM_JWT": "daemon"}, REST_USER
        elif kind == "slurmctld":
            argv += ["-D", "-f", str(layout.conf)]
        elif kind == "slurmd":
            argv += ["-D", "-N", node, "-f", str(layout.conf)]
        self._running.start(daemon, argv, self.env() | extra, user)

    def _until_ready(self, daemon: str) -> None:
        layout = self._placed
        ports = {
            "slurmctld": layout.controller_port,
            "slurmdbd": layout.database_daemon_port,
            "slurmrestd": layout.rest_port,
        } | {f"slurmd:{name}": port for name, port in layout.node_ports.items()}
        sockets = {"munged": layout.munge_socket, "mariadbd": layout.database_socket}
        target = sockets.get(daemon) or ("127.0.0.1", ports[daemon])
        self._running.until(daemon, lambda: _answers(target), START_LIMIT_S)

    def _until_idle(self) -> None:
        give_up_at = time.monotonic() + START_LIMIT_S
        while True:
            shown = self.run("sinfo", "--noheader", "--Node", "--format=%N %T")
            states = dict(line.split() for line in shown.splitlines())
            if len(states) == len(self.node_names) and set(states.values()) == {"idle"}:
                return
            if time.monotonic() > give_up_at:
                raise SlurmClusterError(f"not every node became idle: {states}")
            time.sleep(POLL_S)

    @property
    def _placed(self) -> Layout:
        assert self._layout is not None, "the cluster was not started"
        return self._layout

    @property
    def _running(self) -> Processes:
        assert self._processes is not None, "the cluster does not run"
        return self._processes


# Nothing of the database outlives the cluster, so nothing need reach the disk.
_INNODB: Final = (
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-flush-method=nosync",
    "--innodb-lock-wait-timeout=900",
    "--max-allowed-packet=64M",
)


def _answers(target: Path | tuple[str, int]) -> bool:
    family = socket.AF_UNIX if isinstance(target, Path) else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.connect(str(target) if isinstance(target, Path) else target)
        except OSError:
            return False
    return True


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tmt-slurm-"))
    folder.chmod(0o755)  # tenants pass through to their work folder
    (folder / MARKER).touch()
    return folder


def _emptied(folder: Path) -> Path:
    """Make the given folder, or empty it if it is one of ours."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / MARKER).exists():
            raise SlurmClusterError(f"{folder} holds other things: name a new or empty folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    (folder / MARKER).touch()
    return folder.resolve()
