"""The shared folder as the control plane sees it: logs, and the removal of what is over.

Everything below ``<work_root>/<unix user>`` belongs to a tenant, who may put anything there. No
link is followed, and nothing is read that is not the tenant's own.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tramontane.domain import ids
from tramontane.domain.launch import SECRET_ENV
from tramontane.drivers import attempt_logs
from tramontane.drivers.slurm.dialects.records import SlurmJob
from tramontane.drivers.slurm.orders import attempt_folders, replica_folders
from tramontane.runner.output import last_lines
from tramontane.runtime.in_time import InTime
from tramontane.runtime.tenant_files import TenantFileError, read_range, read_tail
from tramontane.runtime.tenant_trees import remove_piece, remove_tree

LIMIT_S: Final = 5.0  # a file server that is away holds whoever asks it
REMOVAL_S: Final = 10.0  # of one piece of a job's files
LOG_BYTES_MAX: Final = 4 << 20
LAUNCH_BYTES_MAX: Final = 4 << 20
# What a launch.json that its tenant replaced can lead to.
_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folders:
    """Run directories of one cluster, named by the parts of their path below its work root."""

    def __init__(self, work_root: Path, limit_s: float = LIMIT_S) -> None:
        self._root = work_root
        self._in_time = InTime(f"{work_root}", limit_s)
        # On its own: however slowly files go, logs are read meanwhile.
        self._removal = InTime(f"{work_root}", max(limit_s, REMOVAL_S))

    def of(self, id_: str, job: SlurmJob) -> tuple[str, ...] | None:
        """Return where a job of ours runs; None if it does not say."""
        if ids.prefix_of(id_) == ids.REPLICA:
            return replica_folders(job.user, id_)
        with suppress(ValueError):
            parts = Path(job.folder).relative_to(self._root).parts
            if len(parts) == 5 and ids.prefix_of(parts[2]) == ids.JOB:
                wanted = attempt_folders(job.user, parts[2], id_)
                return wanted if wanted == parts else None
        return None

    def last_lines(self, id_: str, folders: tuple[str, ...], lines_max: int) -> list[str]:
        """Return the last lines of an engine or of an attempt's first node, without its secret.

        Before there are any, those of the job's script, which say why it got no further. Raises
        TimeoutError when the folder does not answer.
        """
        return self._in_time.run(lambda: self._last_lines(id_, folders, lines_max))

    def _last_lines(self, id_: str, folders: tuple[str, ...], lines_max: int) -> list[str]:
        run_dir, owner = "/".join(folders), self._owner(folders)
        with suppress(OSError):
            lines: list[str] = []
            if ids.prefix_of(id_) == ids.ATTEMPT:
                lines = attempt_logs.read_last_lines(self._root, run_dir, owner, 0, lines_max)
            names = ("engine.log", "engine.log.1") if ids.prefix_of(id_) == ids.REPLICA else ()
            for name in names:
                lines = self._tail(f"{run_dir}/{name}", owner, lines_max - len(lines)) + lines
            lines = lines or self._tail(f"{run_dir}/slurm.log", owner, lines_max)
            secret = self._secret(run_dir, owner) if lines else ""
            return [line.replace(secret, "***") if secret else line for line in lines]
        return []

    def read(self, folders: tuple[str, ...], rank: int, offset: int, bytes_max: int) -> bytes:
        """Return a piece of what was ever written on one node. Raises OSError."""
        run_dir = "/".join(folders)
        return self._in_time.run(
            lambda: attempt_logs.read_log(
                self._root, run_dir, self._owner(folders), rank, offset=offset, bytes_max=bytes_max
            )
        )

    def remove(self, folders: tuple[str, ...]) -> None:
        """Remove a run directory; one that is not there is fine.

        OSError when that fails, and for a large one when there is more to do: call it again.
        """
        self._in_time.run(lambda: self._remove(folders))

    def remove_first(self, places: Sequence[tuple[str, ...]]) -> bool:
        """Remove a piece of the first of ``places`` where there is something.

        Returns whether nothing of it is left, or there never was anything. Raises OSError.
        """
        return self._removal.run(lambda: self._remove_first(places))

    def _remove_first(self, places: Sequence[tuple[str, ...]]) -> bool:
        for *parents, name in places:
            with suppress(FileNotFoundError), self._opened(parents) as here:
                os.stat(name, dir_fd=here, follow_symlinks=False)
                return remove_piece(here, name)
        return True

    def _remove(self, folders: tuple[str, ...]) -> None:
        *parents, name = folders
        with suppress(FileNotFoundError), self._opened(parents) as here:
            remove_tree(here, name)

    @contextmanager
    def _opened(self, parents: Sequence[str]) -> Iterator[int]:
        here = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for parent in parents:
                below = os.open(parent, _FOLDER, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def _tail(self, relative: str, owner: int, lines_max: int) -> list[str]:
        try:
            data = read_tail(self._root, relative, owner, bytes_max=LOG_BYTES_MAX)
        except TenantFileError:
            return []
        return last_lines(data or b"", lines_max)

    def _owner(self, folders: tuple[str, ...]) -> int:
        """Return the user id of whom the operator gave the folder to; -1, nobody, if none."""
        try:
            return (self._root / folders[0]).lstat().st_uid
        except OSError:
            return -1

    def _secret(self, run_dir: str, owner: int) -> str:
        with suppress(TenantFileError, *_UNREADABLE):
            path = f"{run_dir}/launch.json"
            data = read_range(self._root, path, owner, offset=0, bytes_max=LAUNCH_BYTES_MAX)
            launch = json.loads(data or b"{}")
            return str(launch.get("secret") or dict(launch["env"]).get(SECRET_ENV, ""))
        return ""
