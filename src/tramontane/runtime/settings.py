"""Settings: one table, four sources.

A value comes from, first to last: a command line option, a ``TRAMONTANE_<NAME>`` environment
variable, ``tramontane.toml`` (``TRAMONTANE_CONFIG`` names another file), the default below.
`TABLE` is the whole list; docs/settings.md shows the same table and a test keeps them equal.
Slurm clusters have sections of their own in the file: see `clusters`.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tramontane.domain.jobs.retention import FILES_DAYS, LISTED_DAYS, retention_of_days
from tramontane.runtime.clusters import ClusterSettingsError, SlurmSettings, slurm_clusters

CONFIG_VARIABLE: Final = "TRAMONTANE_CONFIG"
CONFIG_FILE: Final = "tramontane.toml"
_PORT_MAX: Final = 65_535

# Read from the environment by other parts; listed so that the documentation is complete.
CLIENT_VARIABLES: Final = {
    "TRAMONTANE_BASE_URL": "where the command line finds the API; unset: as the home says",
    "TRAMONTANE_API_KEY": "the key that the command line uses; unset: as the home says",
    CONFIG_VARIABLE: "a settings file in place of ./tramontane.toml",
}


class SettingsError(Exception):
    """A setting is unknown or unusable; the message is one line that names it and its source."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. ``default`` gives the type; None is an optional text."""

    name: str
    default: str | int | bool | None
    meaning: str
    minimum: int | None = None
    maximum: int | None = None


TABLE: Final[tuple[Setting, ...]] = (
    Setting("home", ".tramontane", "folder of everything that an installation keeps"),
    Setting("host", "127.0.0.1", "address that the gateway listens on"),
    Setting("port", 8080, "port that the gateway listens on; 0 picks a free one", 0, _PORT_MAX),
    Setting(
        "database_url",
        None,
        "sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME; unset: SQLite in the home",
    ),
    Setting("demo", True, "deploy the demo model at the first start"),  # noqa: FBT003 - a value
    Setting("demo_model", None, "GGUF file of the demo model; unset: the one that ships with us"),
    Setting("models_root", None, "models may only be imported from below this folder; unset: any"),
    Setting(
        "vllm_python",
        None,
        "Python interpreter of vLLM's own environment; unset: the one that runs Tramontane",
    ),
    Setting("cluster", "local", "name of this machine's cluster"),
    Setting(
        "run_locally",
        True,  # noqa: FBT003 - a value
        "replicas and jobs may run on this machine; false: only on the clusters of the file",
    ),
    Setting(
        "node_cpu_millicores",
        None,
        "thousandths of a core that replicas may reserve on this node; unset: four times the cores",
    ),
    Setting(
        "node_memory_bytes",
        None,
        "memory that replicas may reserve on this node; unset: all but a tenth",
    ),
    Setting("reconcile_interval_ms", 1_000, "pause between two looks at the world", 50, 60_000),
    Setting(
        "node_failures_max",
        3,
        "replicas and attempts that fail on a node one after the other before it is drained; "
        "0: never",
        0,
        1_000,
    ),
    Setting("drain_timeout_s", 30, "longest wait for requests in flight at a stop", 0, 3_600),
    Setting("responses_keep_days", 30, "days after which a stored response is deleted", 1, 3_650),
    Setting(
        "job_files_keep_days",
        FILES_DAYS,
        "days after its end for which a job's working folder, checkpoints and logs are kept; "
        "0: for ever",
        0,
        3_650,
    ),
    Setting(
        "jobs_keep_days",
        LISTED_DAYS,
        "days after its end for which a job is listed, never fewer than its files are kept; "
        "0: for ever",
        0,
        3_650,
    ),
    Setting("log_level", "info", "debug, info, warning or error"),
    Setting("log_format", "text", "text, or json for one JSON object per line"),
    Setting(
        "metrics_port",
        None,
        "port on which the gateway gives its metrics without a key; unset: only at /metrics, "
        "to operators; 0 picks a free one",
        0,
        _PORT_MAX,
    ),
    Setting("metrics_host", "127.0.0.1", "address of the metrics port; keep strangers off it"),
    Setting(
        "otel_endpoint",
        None,
        "OTLP/HTTP address that gets a span of each traced request, such as "
        "http://127.0.0.1:4318/v1/traces; needs the extra otel; unset: no tracing",
    ),
    Setting(
        "otel_sample_percent",
        10,
        "of a hundred requests that bring no trace of their own, how many are traced",
        0,
        100,
    ),
    Setting(
        "tls_certificate",
        None,
        "PEM file of the gateway's certificate and its chain; unset: plain HTTP",
    ),
    Setting("tls_key", None, "PEM file of the certificate's private key, without a passphrase"),
    Setting(
        "replica_tls_ca",
        None,
        "PEM file of the CA of the replicas' certificates; unset: replicas speak plain HTTP",
    ),
    Setting(
        "replica_tls_certificate",
        None,
        "PEM file of the certificate that the gateway shows to replicas; unset: none",
    ),
    Setting("replica_tls_key", None, "PEM file of that certificate's private key"),
)

_BY_NAME: Final = {setting.name: setting for setting in TABLE}
_OPTIONAL_INTEGERS: Final = frozenset({"node_cpu_millicores", "node_memory_bytes", "metrics_port"})
_PATHS: Final = (
    *("home", "demo_model", "models_root", "vllm_python", "tls_certificate", "tls_key"),
    *("replica_tls_ca", "replica_tls_certificate", "replica_tls_key"),
)
# Each needs the one beside it.
_TOGETHER: Final = (
    ("tls_certificate", "tls_key"),
    ("tls_key", "tls_certificate"),
    ("replica_tls_certificate", "replica_tls_key"),
    ("replica_tls_key", "replica_tls_certificate"),
    ("replica_tls_certificate", "replica_tls_ca"),
)
_WORDS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of `TABLE`, checked. Paths are absolute."""

    home: Path
    host: str
    port: int
    database_url: str
    demo: bool
    demo_model: Path | None
    models_root: Path | None
    vllm_python: Path | None
    cluster: str
    run_locally: bool
    node_cpu_millicores: int | None
    node_memory_bytes: int | None
    reconcile_interval_ms: int
    node_failures_max: int
    drain_timeout_s: int
    responses_keep_days: int
    job_files_keep_days: int
    jobs_keep_days: int
    log_level: str
    log_format: str
    metrics_port: int | None
    metrics_host: str
    otel_endpoint: str | None
    otel_sample_percent: int
    tls_certificate: Path | None
    tls_key: Path | None
    replica_tls_ca: Path | None
    replica_tls_certificate: Path | None
    replica_tls_key: Path | None
    slurm: tuple[SlurmSettings, ...] = ()


def load(
    options: Mapping[str, object | None] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Return the settings that ``options``, the environment and the settings file give.

    ``options`` are command line options; None values count as not given. ``folder`` is where
    ``tramontane.toml`` is looked for. Raises `SettingsError`.
    """
    environment = os.environ if environment is None else environment
    folder = Path.cwd() if folder is None else folder
    values: dict[str, Any] = {setting.name: setting.default for setting in TABLE}
    from_file, clusters = _from_file(environment, folder)
    for name, raw, source in (*from_file, *_from_environment(environment)):
        values[name] = _checked(_BY_NAME[name], raw, source)
    for name, raw in (options or {}).items():
        if raw is not None:
            values[name] = _checked(_BY_NAME[name], raw, f"--{name.replace('_', '-')}")
    settings = _finish(values, folder, clusters)
    names = [settings.cluster, *(cluster.name for cluster in clusters)]
    if settings.run_locally and len(set(names)) < len(names):
        msg = f"two clusters are named {settings.cluster!r}; rename one, or set run_locally = false"
        raise SettingsError(msg)
    if not settings.run_locally and not clusters:
        msg = "run_locally is false and no [slurm.NAME] is set: nothing could run anywhere"
        raise SettingsError(msg)
    return settings


def _from_file(
    environment: Mapping[str, str], folder: Path
) -> tuple[list[tuple[str, object, str]], tuple[SlurmSettings, ...]]:
    named = environment.get(CONFIG_VARIABLE)
    path = Path(named) if named else folder / CONFIG_FILE
    if not named and not path.exists():
        return [], ()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"settings file {path} cannot be read: {error.strerror}"
        raise SettingsError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"settings file {path} is not TOML: {error}"
        raise SettingsError(msg) from error
    try:
        clusters = slurm_clusters(table.pop("slurm", {}), str(path), path.absolute().parent)
    except ClusterSettingsError as error:
        raise SettingsError(str(error)) from error
    for name in table:
        if name not in _BY_NAME:
            near = difflib.get_close_matches(name, _BY_NAME, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; docs/settings.md lists all"
            msg = f"{path}: there is no setting {name!r}{hint}"
            raise SettingsError(msg)
    return [(name, value, f"{name} in {path}") for name, value in table.items()], clusters


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = []
    for setting in TABLE:
        variable = f"TRAMONTANE_{setting.name.upper()}"
        raw = environment.get(variable)
        if raw:  # an empty variable counts as unset, as `make` passes it
            found.append((setting.name, raw, variable))
    return found


def _checked(setting: Setting, raw: object, source: str) -> object:
    if isinstance(setting.default, bool):
        return _boolean(raw, source)
    if isinstance(setting.default, int) or setting.name in _OPTIONAL_INTEGERS:
        return _integer(setting, raw, source)
    text = str(raw) if isinstance(raw, str | Path) else None
    if not text or "\0" in text:
        msg = f"{source} must be a text, not {raw!r}"
        raise SettingsError(msg)
    return text


def _boolean(raw: object, source: str) -> bool:
    value = raw if isinstance(raw, bool) else _WORDS.get(str(raw).lower())
    if value is None:
        msg = f"{source} must be true or false, not {raw!r}"
        raise SettingsError(msg)
    return value


def _integer(setting: Setting, raw: object, source: str) -> int:
    low = 1 if setting.minimum is None else setting.minimum
    high = 1 << 62 if setting.maximum is None else setting.maximum
    text = str(raw)
    digits = text.isascii() and text.isdigit() and len(text) < 20
    if isinstance(raw, bool) or not digits or not low <= int(text) <= high:
        most = f"{low} to {high}" if setting.maximum is not None else f"at least {low}"
        msg = f"{source} must be a whole number, {most}, not {raw!r}"
        raise SettingsError(msg)
    return int(text)


def _finish(values: dict[str, Any], folder: Path, clusters: tuple[SlurmSettings, ...]) -> Settings:
    if values["log_level"] not in {"debug", "info", "warning", "error"}:
        msg = f"log_level must be debug, info, warning or error, not {values['log_level']!r}"
        raise SettingsError(msg)
    if values["log_format"] not in {"text", "json"}:
        msg = f"log_format must be text or json, not {values['log_format']!r}"
        raise SettingsError(msg)
    for name, other in _TOGETHER:
        if values[name] is not None and values[other] is None:
            msg = f"{name} is set and needs {other}; set both or neither"
            raise SettingsError(msg)
    try:
        retention_of_days(values["job_files_keep_days"], values["jobs_keep_days"])
    except ValueError as error:
        raise SettingsError(str(error)) from error
    endpoint = values["otel_endpoint"]
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        msg = f"otel_endpoint must begin with http:// or https://, not {endpoint!r}"
        raise SettingsError(msg)
    for name in _PATHS:
        if values[name] is not None:
            values[name] = folder / Path(values[name]).expanduser()
    if values["database_url"] is None:
        values["database_url"] = f"sqlite:///{values['home'] / 'tramontane.sqlite'}"
    elif not values["database_url"].startswith(("sqlite:///", "postgresql://")):
        msg = "database_url must begin with sqlite:/// or postgresql://"
        raise SettingsError(msg)
    return Settings(**values, slurm=clusters)
