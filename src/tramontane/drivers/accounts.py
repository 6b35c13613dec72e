"""The port of accounts: how a cluster is told which tenants there are and what they may use.

Beside `drivers.base`: only clusters with accounts of their own have it.
"""

from typing import Protocol

from tramontane.domain.quotas.accounts import AccountPolicy, Observed
from tramontane.domain.quotas.accounts_plan import Action


class ClusterRefusedError(ValueError):
    """The cluster answered and said no; the message is its own. Nothing was changed."""


class Accounts(Protocol):
    """One cluster's accounts. `observe` and `apply` raise `DriverUnavailableError` for an outage.

    Every action may be repeated. `apply` raises `ClusterRefusedError` for a no.
    """

    @property
    def policy(self) -> AccountPolicy:
        """How names are made on this cluster."""
        ...

    def observe(self) -> Observed:
        """Return what the cluster has, of others too."""
        ...

    def apply(self, action: Action) -> None:
        """Carry one action of a plan out."""
        ...
