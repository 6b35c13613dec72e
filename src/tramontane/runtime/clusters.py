"""Slurm clusters in the settings file: one section ``[slurm.NAME]`` each.

docs/howto/slurm.md explains every line; `OPTIONS` is the whole list.
"""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from tramontane.domain.quotas.names import PREFIX_WORDS, is_prefix

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_UNIX_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class ClusterSettingsError(ValueError):
    """A section is unusable; the message is one line that names it."""


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """How one Slurm cluster is reached and used.

    ``users`` maps ``organization`` or ``organization/project`` to a Unix user. ``qos`` maps a
    priority class to a QOS where accounts are not managed. ``setup`` are shell lines of the
    operator that come before the runner, such as ``module load``. ``container`` is put before
    each command, such as ``apptainer exec --nv IMAGE``. ``venv`` holds the engines' Python.
    ``networks`` (CIDR) are those in which engines may listen; without, each listens where its
    runner's reports come from.
    """

    name: str
    url: str
    jwt_key: Path
    work_root: Path
    admin_user: str = "root"
    default_user: str | None = None
    users: Mapping[str, str] = field(default_factory=dict[str, str])
    manage_accounts: bool = True
    account_prefix: str = "tmt_"
    account: str | None = None
    qos: Mapping[str, str] = field(default_factory=dict[str, str])
    partition: str | None = None
    slurm_conf: Path | None = None
    report_url: str | None = None
    python: str = "python3"
    venv: Path | None = None
    setup: tuple[str, ...] = ()
    container: tuple[str, ...] = ()
    walltime_s: int | None = None
    site: str | None = None
    country: str | None = None
    timeout_s: int = 10
    networks: tuple[str, ...] = ()


OPTIONS: Final = tuple(f for f in fields(SlurmSettings) if f.name != "name")
_PATHS: Final = frozenset({"jwt_key", "work_root", "slurm_conf", "venv"})
_LISTS: Final = frozenset({"setup", "container", "networks"})
_MAPS: Final = frozenset({"users", "qos"})
_NUMBERS: Final = frozenset({"walltime_s", "timeout_s"})


def slurm_clusters(tables: object, source: str, folder: Path) -> tuple[SlurmSettings, ...]:
    """Return the clusters of the table ``slurm`` of settings file ``source``.

    Relative paths count from ``folder``. Raises `ClusterSettingsError`.
    """
    if not isinstance(tables, dict):
        raise ClusterSettingsError(f"slurm in {source} must hold sections such as [slurm.alps]")
    named = cast("dict[str, object]", tables)
    return tuple(_cluster(name, table, source, folder) for name, table in named.items())


def _cluster(name: str, table: object, source: str, folder: Path) -> SlurmSettings:
    where = f"[slurm.{name}] in {source}"
    if not _NAME.fullmatch(name):
        raise ClusterSettingsError(f"{where}: the name must be of a-z, 0-9 and inner hyphens")
    if not isinstance(table, dict):
        raise ClusterSettingsError(f"{where} must be a section")
    given = cast("dict[str, object]", table)
    known = {option.name for option in OPTIONS}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ClusterSettingsError(f"{where}: there is no option {key!r}{hint}")
    for option in OPTIONS:
        is_needed = option.default is MISSING and option.default_factory is MISSING
        if is_needed and option.name not in given:
            raise ClusterSettingsError(f"{where} needs {option.name}")
    values = {key: _value(key, value, where, folder) for key, value in given.items()}
    settings = SlurmSettings(name=name, **values)
    _check(settings, where)
    return settings


def _value(key: str, value: object, where: str, folder: Path) -> Any:
    if key == "manage_accounts":
        if isinstance(value, bool):
            return value
        raise ClusterSettingsError(f"{where}: {key} must be true or false")
    if key in _NUMBERS:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise ClusterSettingsError(f"{where}: {key} must be a whole number above 0")
    if key in _LISTS:
        items = cast("list[object]", value) if isinstance(value, list) else [None]
        if all(_is_line(item) for item in items):
            return tuple(cast("list[str]", items))
        raise ClusterSettingsError(f"{where}: {key} must be a list of lines")
    if key in _MAPS:
        pairs = cast("dict[str, object]", value) if isinstance(value, dict) else {"": None}
        if all(_is_line(item) for item in pairs.values()):
            return cast("dict[str, str]", pairs)
        raise ClusterSettingsError(f"{where}: {key} must be a table of names")
    if not _is_line(value):
        raise ClusterSettingsError(f"{where}: {key} must be a text of one line")
    return folder / Path(str(value)).expanduser() if key in _PATHS else value


def _is_line(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or half an IPv6 address
        return False


def _check(settings: SlurmSettings, where: str) -> None:
    for key, url in (("url", settings.url), ("report_url", settings.report_url)):
        if url is not None and not _is_address(url):
            wish = "must begin with http:// or https://, with a host and a port such as"
            raise ClusterSettingsError(f"{where}: {key} {url!r} {wish} http://10.0.0.1:6820")
    for network in settings.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ClusterSettingsError(f"{where}: networks: {error}") from error
    if not is_prefix(settings.account_prefix):
        given = f"account_prefix must be {PREFIX_WORDS}, not {settings.account_prefix!r}"
        raise ClusterSettingsError(f"{where}: {given}")
    users = [*settings.users.values(), settings.default_user or "nobody", settings.admin_user]
    for user in users:
        if not _UNIX_USER.fullmatch(user):
            raise ClusterSettingsError(f"{where}: {user!r} is not a Unix user name")
