"""Where a command finds its server and its key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tramontane.cli.exits import CommandError, ExitCode
from tramontane.runtime.home import Home
from tramontane.runtime.settings import SettingsError, load
from tramontane.wire.client import CloudClient

TIMEOUT_S: Final = 30.0  # the server answers at once; slower is an outage
_NEXT: Final = "run `tramontane up` first, or give --base-url and --api-key"


@dataclass(frozen=True, slots=True)
class Connection:
    """A server and a key. ``key_source`` says in words where the key came from."""

    base_url: str
    api_key: str
    key_source: str

    def client(self, timeout_s: float = TIMEOUT_S) -> CloudClient:
        """Return a client of the server; raises `UnreachableError` for an unusable URL."""
        return CloudClient(self.base_url, self.api_key, timeout_s)


@dataclass(frozen=True, slots=True)
class Session:
    """What a verb works with: a client, and whether JSON was asked for."""

    client: CloudClient
    as_json: bool


def connect(
    base_url: str | None, api_key: str | None, home: Path | None, *, for_chat: bool = False
) -> Connection:
    """Return the connection that the options (or their variables) or the home give.

    The home's operator key manages and its member key chats. A key of the home is sent to the
    home's own server only. Raises `CommandError`.
    """
    if base_url and api_key:
        return Connection(base_url, api_key, "--api-key or TRAMONTANE_API_KEY")
    folder = _home(home)
    credentials = folder.read_credentials()
    if credentials is None:
        state = "is unusable" if folder.credentials_path.exists() else "is missing"
        msg = f"no server and key: {folder.credentials_path} {state}; {_NEXT}"
        raise CommandError(msg, ExitCode.NOT_AUTHORIZED)
    if api_key:
        return Connection(credentials.base_url, api_key, "--api-key or TRAMONTANE_API_KEY")
    key = credentials.api_key if for_chat else credentials.admin_key
    found = Connection(credentials.base_url, key, str(folder.credentials_path))
    if base_url and found.client().origin != Connection(base_url, key, "").client().origin:
        msg = f"no key for {base_url}: {folder.credentials_path} holds keys of "
        msg += f"{credentials.base_url} only; give --api-key or set TRAMONTANE_API_KEY"
        raise CommandError(msg, ExitCode.NOT_AUTHORIZED)
    return found


def _home(home: Path | None) -> Home:
    try:
        return Home(load({"home": home}).home)
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
