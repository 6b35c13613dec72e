"""The clusters of an installation: drivers, accounts and sites, as the settings say."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tramontane.domain.fleet import Site
from tramontane.domain.quotas.accounts import AccountPolicy
from tramontane.domain.resources import Resources
from tramontane.drivers.accounts import Accounts
from tramontane.drivers.base import Driver
from tramontane.drivers.patient import PatientDriver
from tramontane.drivers.process import ProcessDriver
from tramontane.drivers.process_node import machine_capacity
from tramontane.drivers.slurm.accounts import SlurmAccounts
from tramontane.drivers.slurm.commands import Commands
from tramontane.drivers.slurm.driver import SlurmDriver
from tramontane.drivers.slurm.rest.jwt import TokenSource
from tramontane.processes.startup import origin
from tramontane.runtime.clock import Clock
from tramontane.runtime.clusters import SlurmSettings
from tramontane.runtime.settings import Settings

# Engines on CPUs wait for requests most of the time, so processors are promised several times
# over. Memory is not: what is promised must be there.
_CPU_OVERCOMMIT: Final = 4
_DEVICES_MAX: Final = 1_024  # as many as the driver finds


@dataclass(frozen=True, slots=True)
class Clusters:
    """By the name of each cluster: what runs things there, keeps its accounts, and where it is."""

    drivers: dict[str, Driver] = field(default_factory=dict[str, Driver])
    accounts: dict[str, Accounts] = field(default_factory=dict[str, Accounts])
    sites: dict[str, Site] = field(default_factory=dict[str, Site])


def make_clusters(settings: Settings, home: Path, installation_id: str, clock: Clock) -> Clusters:
    """Return the clusters of ``settings``. Nothing is asked yet."""
    made = Clusters()
    if settings.run_locally:
        made.drivers[settings.cluster] = ProcessDriver(
            "process", home, installation_id, capacity=_capacity(settings), clock=clock
        )
    url = origin(settings.host, settings.port, is_tls=settings.tls_certificate is not None)
    for cluster in settings.slurm:
        driver = SlurmDriver(cluster, installation_id, report_url=url, clock=clock)
        has_neighbours = settings.run_locally or len(settings.slurm) > 1
        made.drivers[cluster.name] = PatientDriver(driver) if has_neighbours else driver
        made.sites[cluster.name] = Site(cluster.site, cluster.country)
        if cluster.manage_accounts:
            made.accounts[cluster.name] = _accounts(cluster, installation_id, clock)
    return made


def _accounts(cluster: SlurmSettings, installation_id: str, clock: Clock) -> Accounts:
    policy = AccountPolicy(cluster.account_prefix, cluster.users, cluster.default_user)
    commands = Commands(
        slurm_conf=cluster.slurm_conf,
        token=_token_of(cluster, clock),
        timeout_s=cluster.timeout_s,
    )
    return SlurmAccounts(commands, policy, mark=installation_id, clock=clock)


def _token_of(cluster: SlurmSettings, clock: Clock) -> Callable[[], str]:
    tokens = TokenSource(cluster.jwt_key, clock)
    return lambda: tokens.token(cluster.admin_user)


def _capacity(settings: Settings) -> Resources:
    """Return what replicas may reserve here: as set, else memory as it is and processors shared."""
    machine = machine_capacity()
    shared = _CPU_OVERCOMMIT * machine.cpu_millicores
    return Resources(
        cpu_millicores=settings.node_cpu_millicores or shared,
        memory_bytes=settings.node_memory_bytes or machine.memory_bytes,
        devices=_DEVICES_MAX,
    )
