"""The home: the folder that holds everything one installation keeps.

Opening it checks that we may write, that no newer version wrote it, and that no other process
runs on it. Whatever is refused, nothing in the folder is changed.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tramontane import __version__
from tramontane.domain import ids
from tramontane.runtime.clock import SystemIds

FORMAT: Final = 1  # of the folder's layout; a change that older code cannot read raises it


class HomeError(Exception):
    """The home cannot be used; the message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the processes of one installation share and nobody else may know (all hex)."""

    installation_id: str
    hmac_key: str
    gateway_token: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a first user needs, in ``credentials.json``."""

    base_url: str
    api_key: str
    admin_key: str
    console_url: str
    organization: str
    project: str


class Home:
    """Paths and small files below one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.credentials_path = path / "credentials.json"
        self.logs = path / "logs"
        self.gateway = path / "gateway"
        self._lock_fd: int | None = None

    @property
    def has_secrets(self) -> bool:
        """Tell whether an installation has begun here."""
        return self._file("secrets.json").exists()

    def open(self) -> None:
        """Make or check the folder and take its lock. Raises `HomeError`."""
        self.prepare(is_locked=True)

    def prepare(self, *, is_locked: bool = False) -> None:
        """Make or check the folder and what belongs into it. Raises `HomeError`."""
        self._check_format()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_locked:
                self._take_lock()
            for folder in (self.logs, self.gateway):
                folder.mkdir(mode=0o700, exist_ok=True)
            if not self._file("home.json").exists():
                write_private(self._file("home.json"), {"format": FORMAT, "version": __version__})
            if not self.has_secrets:
                write_private(self._file("secrets.json"), asdict(_new_secrets()))
        except OSError as error:
            msg = (
                f"cannot write to the home {self.path}: {error.strerror}; "
                "choose another with --home DIR"
            )
            raise HomeError(msg) from error

    def close(self) -> None:
        """Give the lock back."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def secrets(self) -> Secrets:
        """Return the installation's secrets. Raises `HomeError` when they are missing."""
        return Secrets(**_read(self._file("secrets.json")))

    def drop_secrets(self) -> None:
        """Remove secrets that were just made and must not be used."""
        self._file("secrets.json").unlink(missing_ok=True)

    def read_credentials(self) -> Credentials | None:
        """Return the credentials of an earlier start, or None when there are none to use."""
        try:
            return Credentials(**_read(self.credentials_path))
        except (HomeError, TypeError):
            return None

    def write_credentials(self, credentials: Credentials) -> None:
        """Replace ``credentials.json``, readable by its owner alone."""
        write_private(self.credentials_path, asdict(credentials))

    def _file(self, name: str) -> Path:
        return self.path / name

    def _check_format(self) -> None:
        path = self._file("home.json")
        try:
            known = path.exists()
        except OSError as error:
            msg = f"cannot use the home {self.path}: {error.strerror}"
            raise HomeError(msg) from error
        if not known:
            return
        found = _read(path)
        written = found.get("format")
        if not isinstance(written, int):
            msg = f"{path} does not say which format the home has; restore it from a backup"
            raise HomeError(msg)
        if written > FORMAT:
            msg = (
                f"the home {self.path} was written by a newer version "
                f"({found.get('version', 'unknown')}, format {written}; this is {__version__}, "
                f"format {FORMAT}): upgrade Tramontane or choose another home"
            )
            raise HomeError(msg)

    def _take_lock(self) -> None:
        fd = os.open(self._file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            msg = (
                f"another tramontane runs on the home {self.path} (pid {holder}); "
                "stop it first or choose another with --home DIR"
            )
            raise HomeError(msg) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._lock_fd = fd


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Replace the JSON file ``path`` at once, mode 600, and make it durable."""
    draft = path.with_suffix(".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _new_secrets() -> Secrets:
    source = SystemIds()
    return Secrets(
        installation_id=source.new(ids.INSTALLATION),
        hmac_key=source.entropy(32).hex(),
        gateway_token=source.entropy(32).hex(),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise HomeError(msg) from error
    except ValueError as error:
        msg = f"{path} is not JSON; restore it from a backup"
        raise HomeError(msg) from error
    if not isinstance(value, dict):
        msg = f"{path} must hold a JSON object; restore it from a backup"
        raise HomeError(msg)
    return value
