"""Clusters hear at once of what changes their accounts."""

from tests.support.cloud import Cloud
from tramontane.domain.fleet import Cluster, ClusterStatus
from tramontane.services.organizations import Organizations
from tramontane.services.projects import ProjectChange, Projects
from tramontane.services.quotas.owned import Subject
from tramontane.services.quotas.reservations import Reservations
from tramontane.services.quotas.use_cases import Quotas
from tramontane.store import fleet


def test_every_change_of_tenants_wakes_the_accounts(cloud: Cloud) -> None:
    woken: list[None] = []

    def wake() -> None:
        woken.append(None)

    def heard() -> bool:
        count = len(woken)
        woken.clear()
        return count == 1

    parts = (cloud.db, cloud.clock, cloud.ids)
    organizations = Organizations(*parts, lambda: None, wake)
    projects = Projects(*parts, lambda: None, wake)
    quotas, reservations = Quotas(*parts, wake), Reservations(*parts, wake)
    cluster = Cluster("clu_a", "alps", "slurm", ClusterStatus.READY, cloud.clock.now_ms())
    cloud.db.write(lambda tx: fleet.upsert_cluster(tx, cluster))
    who = cloud.operator

    organizations.create(who, "acme")
    assert heard()
    projects.create(who, "web", "acme")
    assert heard()
    projects.change(who, "web", ProjectChange(is_strict=True))
    assert not woken  # clusters do not know of that
    quota = quotas.set(who, Subject(organization="acme"), 4, 1)
    assert heard()
    quotas.remove(who, quota.id)
    assert heard()
    kept = reservations.create(who, "acme", "alps", "rack1")
    assert heard()
    reservations.remove(who, kept.id)
    assert heard()
    projects.archive(who, "web")
    assert heard()
