"""What to start: the plain value that an engine recipe makes and a driver carries out."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tramontane.domain.resources import Resources

# Placeholders in `LaunchSpec.argv` and its environment values, filled in on the node that runs it.
PYTHON: Final = "{python}"  # the interpreter that runs the runner
HOST: Final = "{host}"  # the address to listen on
PORT: Final = "{port}"  # a free port, picked by the runner just before the start
# Of a replica on several nodes: the first node's address, a free port there, and the node's number.
HEAD: Final = "{head}"
HEAD_PORT: Final = "{head_port}"
RANK: Final = "{rank}"

SECRET_ENV: Final = "TRAMONTANE_REPLICA_SECRET"  # noqa: S105 - a name, not a secret


class PriorityClass(StrEnum):
    """Who gives way to whom where a cluster is full."""

    RESERVED = "reserved"  # evicts spot
    STANDARD = "standard"  # waits for its turn, evicts spot
    SPOT = "spot"  # runs on what is left, and gives way


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Whose it is, by name: clusters map these to their own users and accounts."""

    organization: str
    project: str


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """A LoRA adapter that replicas load beside their model; requests call it by ``name``."""

    name: str
    model_version_id: str


@dataclass(frozen=True, slots=True)
class LoadProbe:
    """Where an engine tells its load: two series of a Prometheus page (text format 0.0.4)."""

    path: str
    running_series: str
    waiting_series: str


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One process to supervise.

    ``env`` holds the only secrets (`SECRET_ENV` and the engine's own name for it): they never
    stand in ``argv``, which every local user can read. ``device_indexes`` are the node's devices
    that the process may see. ``health_path`` answers 200 when the engine can serve.
    ``adapters`` are what it loads, in the order in which the engine numbers them.
    With ``nodes`` above 1, the first node runs ``argv``, each other one ``worker_argv``, and
    ``resources`` are those of each. ``tenancy`` None is the installation's own.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    resources: Resources
    health_path: str
    load: LoadProbe | None
    ready_timeout_s: int
    drain_timeout_s: int
    device_indexes: tuple[int, ...] = ()
    adapters: tuple[AdapterSpec, ...] = ()
    tenancy: Tenancy | None = None
    priority_class: PriorityClass = PriorityClass.STANDARD
    nodes: int = 1
    worker_argv: tuple[str, ...] = ()
