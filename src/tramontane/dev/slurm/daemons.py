"""How each daemon of a cluster is started, and where it answers."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tramontane.dev.slurm.config import Layout
from tramontane.dev.slurm.packages import program

REST_USER: Final = "nobody"  # neither root nor SlurmUser, which slurmrestd refuses to serve as
OPENAPI: Final = "openapi/v0.0.38,openapi/dbv0.0.38"
# Nothing of the database outlives the cluster, so nothing need reach the disk.
_INNODB: Final = (
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-flush-method=nosync",
    "--innodb-lock-wait-timeout=900",  # what slurmdbd asks for
)


@dataclass(frozen=True)
class Daemon:
    """One daemon in its foreground mode; ``answers_at`` takes connections once it is ready."""

    argv: tuple[str, ...]
    answers_at: Path | tuple[str, int]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str | None = None


def daemons(layout: Layout) -> dict[str, Daemon]:
    """Return every daemon by name, in the order in which they need each other."""
    conf = str(layout.conf)
    slurmds = {
        f"slurmd:{node}": Daemon(
            (program("slurmd"), "-D", "-N", node, "-f", conf), ("127.0.0.1", port)
        )
        for node, port in layout.node_ports.items()
    }
    return {
        "munged": _munged(layout),
        "mariadbd": _mariadbd(layout),
        "slurmdbd": Daemon(
            (program("slurmdbd"), "-D"),
            ("127.0.0.1", layout.database_daemon_port),
            {"MYSQL_UNIX_PORT": str(layout.database_socket)},
        ),
        "slurmctld": Daemon(
            (program("slurmctld"), "-D", "-f", conf), ("127.0.0.1", layout.controller_port)
        ),
        "slurmrestd": Daemon(
            (
                *(program("slurmrestd"), "-f", conf, "-a", "rest_auth/jwt", "-s", OPENAPI),
                f"127.0.0.1:{layout.rest_port}",
            ),
            ("127.0.0.1", layout.rest_port),
            {"SLURM_JWT": "daemon"},
            REST_USER,
        ),
        **slurmds,
    }


def _munged(layout: Layout) -> Daemon:
    run = layout.folder / "run"
    argv = (
        *(program("munged"), "--foreground", "--num-threads=4"),
        *(f"--socket={layout.munge_socket}", f"--key-file={layout.munge_key}"),
        *(f"--pid-file={run}/munged.pid", f"--seed-file={run}/munged.seed"),
    )
    return Daemon(argv, layout.munge_socket)


def _mariadbd(layout: Layout) -> Daemon:
    """Return a MariaDB that makes its data when there is none; then the shell becomes it."""
    data = f"--datadir={layout.database}"
    install = (
        *(program("mariadb-install-db"), "--no-defaults", "--user=root", data, *_INNODB),
        *("--skip-test-db", "--auth-root-authentication-method=normal"),
    )
    serve = (
        *(program("mariadbd"), "--no-defaults", "--user=root", data, *_INNODB),
        *("--skip-networking", "--skip-grant-tables", "--max-allowed-packet=64M"),
        *(f"--socket={layout.database_socket}", f"--pid-file={layout.folder}/run/mariadbd.pid"),
    )
    made = shlex.quote(str(layout.database / "mysql"))
    script = f"test -d {made} || {shlex.join(install)} || exit 1; exec {shlex.join(serve)}"
    # Temporary tables are named by process number, and clusters count their processes apart.
    env = {"TMPDIR": f"{layout.folder}/run"}
    return Daemon(("/bin/sh", "-c", script), layout.database_socket, env)
