"""A real cluster is told tenants, quotas, classes and reserved racks, and keeps its own things."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.planning import NOW_MS
from tests.support.waiting import until
from tramontane.dev.slurm.cluster import SlurmCluster, SlurmClusterError
from tramontane.domain.fleet import Cluster, ClusterStatus
from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas.accounts import AccountPolicy
from tramontane.domain.quotas.quota import Quota, QuotaScope, RackReservation
from tramontane.domain.tenancy import Organization, Project
from tramontane.drivers.accounts import ClusterRefusedError
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.accounts import SlurmAccounts
from tramontane.drivers.slurm.commands import Commands, racks
from tramontane.reconcilers.accounts import AccountsReconciler
from tramontane.runtime.clock import SystemClock
from tramontane.store import events, fleet, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.quotas import quotas, reservations

pytestmark = pytest.mark.slow

PREFIX = "acc_"  # not that of other tests on the same cluster
TELCO = Organization("org_telco", "telco", NOW_MS)
LAB = Organization("org_lab", "lab", NOW_MS)
NETWORK = Project("prj_network", TELCO.id, "network", NOW_MS)
TRAINING = Project("prj_training", LAB.id, "training", NOW_MS)
POLICY = AccountPolicy(PREFIX, {"telco": "tmt-a", "lab/training": "tmt-b"})
RESERVED, STANDARD, SPOT = PriorityClass
QUOTA = Quota("quo_telco", QuotaScope.ORGANIZATION, TELCO.id, 16, 3, tuple(PriorityClass))


class Recording(Commands):
    """Remembers what was run."""

    def __init__(self, cluster: SlurmCluster) -> None:
        super().__init__(slurm_conf=cluster.conf, token=lambda: cluster.token("root"))
        self.changes: list[tuple[str, ...]] = []

    def run(self, *argv: str) -> str:
        if "list" not in argv and "show" not in argv:
            self.changes.append(argv)
        return super().run(*argv)


class Site:
    """The store and the reconciler of an installation that has this cluster."""

    def __init__(self, db: Database, cluster: SlurmCluster) -> None:
        self.db, self.slurm = db, cluster
        self.commands = Recording(cluster)
        port = SlurmAccounts(self.commands, POLICY, mark="ins_test", clock=SystemClock())
        self.reconciler = AccountsReconciler(db, {"alps": port}, SystemClock())

        def write(tx):
            slurm = Cluster("clu_alps", "alps", "slurm", ClusterStatus.READY, NOW_MS)
            fleet.upsert_cluster(tx, slurm)
            for organization in (TELCO, LAB):
                tenancy.insert_organization(tx, organization)
            for project in (NETWORK, TRAINING):
                tenancy.insert_project(tx, project)
            quotas.ROWS.insert(tx, QUOTA, NOW_MS)

        db.write(write)

    def settle(self) -> list[tuple[str, ...]]:
        """Make a pass and return what it changed; the next one has nothing to do."""
        self.commands.changes.clear()
        self.reconciler.step()
        made = list(self.commands.changes)
        self.commands.changes.clear()
        self.reconciler.step()
        assert self.commands.changes == []
        return made

    def drifts(self) -> list[str]:
        with self.db.read() as tx:
            told = events.last_of(tx, "clu_alps", limit=100)
        return [event.message for event in told if event.kind == "cluster.drift"]

    def associations(self, *accounts: str) -> dict[tuple[str, str], list[str]]:
        columns = "account,user,parentname,fairshare,grptres,qos,defaultqos"
        shown = self.slurm.run(
            *("sacctmgr", "-nP", "list", "associations", f"cluster={self.slurm.name}"),
            *(f"account={','.join(accounts)}", f"format={columns}"),
        )
        rows = [line.split("|") for line in shown.splitlines()]
        return {(row[0], row[1]): row[2:] for row in rows}

    def submit(self, user: str, account: str, *options: str) -> str:
        options = ("--time=10", "--mem=50", "--no-requeue", "--output=/dev/null", *options)
        who = (f"--uid={user}", f"--account={PREFIX}{account}", "--chdir=/")
        return self.slurm.run(
            "sbatch", "--parsable", *who, *options, "--wrap=exec sleep 300"
        ).strip()

    def state(self, job: str) -> tuple[str, str]:
        """Return the state of a job and why it waits."""
        shown = self.slurm.run("squeue", "-h", "--states=all", f"--jobs={job}", "-o", "%T %r")
        state, _, reason = shown.strip().partition(" ")
        return state, reason

    def until(self, job: str, state: str, reason: str | None = None) -> None:
        def is_there() -> bool:
            seen = self.state(job)
            return seen[0] == state and reason in {None, seen[1]}

        until(is_there, f"job {job} to be {state} {reason or ''}")

    def end(self, *jobs: str) -> None:
        self.slurm.run("scancel", *jobs)
        for job in jobs:
            until(lambda job=job: self.state(job)[0] not in {"RUNNING", "COMPLETING"}, "its end")


OPERATORS = (
    ("sacctmgr", "-i", "add", "qos", "name=accounting", "priority=7", "gracetime=5"),
    ("sacctmgr", "-i", "add", "account", "name=acc", "fairshare=9", "grptres=gres/gpu=3"),
    ("sacctmgr", "-i", "add", "user", "name=tmt-a", "account=acc", "qos=normal"),
    (
        *("scontrol", "create", "reservation", "reservationname=acceptance", "users=root"),
        *("nodes=r2n2", "starttime=now+800days", "duration=60"),
    ),
)


def of_others(slurm: SlurmCluster) -> str:
    """Return everything of the cluster that is not ours, as Slurm prints it."""
    lists = [
        slurm.run("sacctmgr", "-nP", "list", noun)
        for noun in ("account", "qos", "associations", "user")
    ]
    lines = "".join(lists).splitlines()
    kept = slurm.run("scontrol", "--oneliner", "show", "reservation").splitlines()
    return "\n".join(sorted(line for line in [*lines, *kept] if PREFIX not in line))


@pytest.fixture(scope="module")
def site(
    slurm: SlurmCluster,
    tenant_folders: dict[str, Path],
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """An installation on the shared cluster, and an operator's own things beside it."""
    del tenant_folders
    path = tmp_path_factory.mktemp("accounts") / "tramontane.sqlite"
    path.write_bytes(sqlite_template.read_bytes())
    for command in OPERATORS:
        slurm.run(*command)
    before = of_others(slurm)
    db = Database(f"sqlite:///{path}")
    site = Site(db, slurm)
    yield site
    jobs = slurm.run("squeue", "-h", "-o", "%i %a").splitlines()
    ours = [line.split()[0] for line in jobs if PREFIX in line]
    if ours:
        site.end(*ours)
    db.close()
    for name in (f"{PREFIX}{each}" for each in ("reserved", "standard", "spot")):
        slurm.run("sacctmgr", "-i", "delete", "qos", f"name={name}")
    after = of_others(slurm)
    slurm.run("scontrol", "delete", "reservationname=acceptance")
    slurm.run("sacctmgr", "-i", "delete", "user", "name=tmt-a", "account=acc")
    slurm.run("sacctmgr", "-i", "delete", "account", "name=acc")
    slurm.run("sacctmgr", "-i", "delete", "qos", "name=accounting")
    assert after == before  # byte by byte, through all that the tests of this module did


def test_a_fresh_cluster_gets_everything_and_a_second_pass_changes_nothing(site: Site) -> None:
    made = site.settle()
    assert len(made) == 3 + 4 + 2
    classes, fewer = "acc_reserved,acc_spot,acc_standard", "acc_spot,acc_standard"
    assert site.associations("acc_telco", "acc_telco_network", "acc_lab_training") == {
        ("acc_telco", ""): ["root", "3", "gres/gpu=16", classes, "acc_standard"],
        ("acc_telco_network", ""): ["acc_telco", "1", "", classes, "acc_standard"],
        ("acc_telco_network", "tmt-a"): ["", "1", "", classes, "acc_standard"],
        ("acc_lab_training", ""): ["acc_lab", "1", "", fewer, "acc_standard"],
        ("acc_lab_training", "tmt-b"): ["", "1", "", fewer, "acc_standard"],
    }
    shown = site.slurm.run("sacctmgr", "-nP", "list", "qos", "format=name,priority,preempt")
    assert {line for line in shown.splitlines() if PREFIX in line} == {
        "acc_reserved|1000|acc_spot",
        "acc_standard|500|acc_spot",
        "acc_spot|0|",
    }
    assert site.drifts() == []


def test_what_is_changed_by_hand_is_told_and_set_back(site: Site) -> None:
    site.reconciler.step()
    right = site.associations("acc_telco", "acc_telco_network", "acc_lab_training")
    cluster = f"cluster={site.slurm.name}"
    change = ("sacctmgr", "-i", "modify", "account", "name=acc_telco", cluster, "set")
    site.slurm.run(*change, "fairshare=77", "grptres=gres/gpu=99", "parent=acc")
    site.slurm.run("sacctmgr", "-i", "modify", "qos", "name=acc_spot", "set", "priority=9999")
    who = ("name=tmt-b", "account=acc_lab_training", cluster)
    site.slurm.run("sacctmgr", "-i", "delete", "user", *who)
    site.slurm.run("sacctmgr", "-i", "delete", "account", "name=acc_lab_training", cluster)
    site.slurm.run("sacctmgr", "-i", "add", "user", "name=root", "account=acc_telco", cluster)
    site.settle()
    assert site.associations("acc_telco", "acc_telco_network", "acc_lab_training") == right
    told = site.drifts()
    assert "parent acc -> root, share 77 -> 3, devices max 99 -> 16; set back" in told[4]
    assert told[0] == ("changed outside: class acc_spot differs: priority 9999 -> 0; set back")
    assert told[1:4] == [
        "changed outside: account acc_lab_training is missing: made; set back",
        "changed outside: user tmt-b in account acc_lab_training is missing: made; set back",
        "changed outside: user root is not wanted in account acc_telco: removed; set back",
    ]


def test_a_17th_device_waits_under_a_quota_of_16(site: Site) -> None:
    site.reconciler.step()
    first = site.submit("tmt-a", "telco_network", "--nodes=4", "--gpus-per-node=4")
    site.until(first, "RUNNING")
    more = site.submit("tmt-a", "telco_network", "--nodes=1", "--gpus-per-node=1")
    site.until(more, "PENDING", "AssocGrpGRES")
    site.end(first)
    site.until(more, "RUNNING")
    site.end(more)


def test_reserved_evicts_spot(site: Site) -> None:
    site.reconciler.step()
    spot = site.submit("tmt-b", "lab_training", "--qos=acc_spot", "--nodes=4", "--gpus-per-node=4")
    site.until(spot, "RUNNING")
    reserved = site.submit(
        "tmt-a", "telco_network", "--qos=acc_reserved", "--nodes=4", "--gpus-per-node=4"
    )
    site.until(spot, "PREEMPTED")
    site.until(reserved, "RUNNING")
    site.end(reserved)


def test_a_class_that_no_quota_names_is_not_taken_by_hand_either(site: Site) -> None:
    """Nor is what a project's quota leaves out; what runs in such a class goes on."""
    site.reconciler.step()
    with pytest.raises(SlurmClusterError, match="Invalid qos"):
        site.submit("tmt-b", "lab_training", "--qos=acc_reserved")
    running = site.submit("tmt-a", "telco_network", "--qos=acc_standard", "--gpus-per-node=1")
    site.until(running, "RUNNING")
    told = site.drifts()
    for named in ((SPOT,), (RESERVED,), (RESERVED, STANDARD), (SPOT,)):
        narrow = Quota("quo_n", QuotaScope.PROJECT, NETWORK.id, priority_classes=named)
        site.db.write(lambda tx, it=narrow: put_quota(tx, it))
        site.settle()
        qos = ",".join(sorted(f"{PREFIX}{each}" for each in named))
        found = site.associations("acc_telco_network")
        assert {tuple(row[3:]) for row in found.values()} == {(qos, default_of(named))}
    assert site.drifts() == told
    user = ("name=tmt-a", "account=acc_telco_network", f"cluster={site.slurm.name}")
    taken = ("set", "qos=acc_reserved,acc_spot", "defaultqos=acc_reserved")
    site.slurm.run("sacctmgr", "-i", "modify", "user", *user, *taken)
    site.settle()
    assert "qos acc_reserved,acc_spot -> acc_spot" in site.drifts()[-1]
    assert site.state(running)[0] == "RUNNING"
    site.end(running)
    site.db.write(lambda tx: quotas.ROWS.remove(tx, "quo_n"))
    site.settle()


def put_quota(tx: Transaction, quota: Quota) -> None:
    seen = quotas.find(tx, quota.subject_id)
    if seen is None:
        quotas.ROWS.insert(tx, quota, NOW_MS)
    else:
        quotas.ROWS.update(tx, quota)


def default_of(named: tuple[PriorityClass, ...]) -> str:
    """Return what a job without a class gets: standard if it may, else the next below."""
    return f"{PREFIX}{next((it for it in (STANDARD, SPOT) if it in named), RESERVED)}"


def test_a_reserved_rack_is_for_its_organization_alone(site: Site) -> None:
    kept = RackReservation("rsv_1", TELCO.id, "alps", "rack1")
    site.db.write(lambda tx: reservations.insert(tx, kept, NOW_MS))
    assert [argv[:3] for argv in site.settle()] == [("scontrol", "create", "reservation")]
    theirs = site.submit("tmt-b", "lab_training", "--nodelist=r1n1", "--gpus-per-node=1")
    ours = site.submit("tmt-a", "telco_network", "--nodelist=r1n1", "--gpus-per-node=1")
    site.until(ours, "RUNNING")
    assert site.state(theirs)[0] == "PENDING"
    site.slurm.run("scontrol", "update", "reservationname=acc_telco_rack1", "accounts=acc")
    site.settle()
    assert "accounts acc -> acc_telco; set back" in site.drifts()[-1]
    site.end(ours)
    site.db.write(lambda tx: reservations.ROWS.remove(tx, kept.id))
    # Slurm keeps a reservation whose job has just ended a moment longer.
    until(lambda: site.reconciler.step() or _reserved(site) == [], "the end of the reservation")
    site.until(theirs, "RUNNING")
    site.end(theirs)


def _reserved(site: Site) -> list[str]:
    shown = site.slurm.run("scontrol", "--oneliner", "show", "reservation").splitlines()
    return [line for line in shown if PREFIX in line]


def test_what_is_archived_goes_and_nothing_else(site: Site) -> None:
    site.reconciler.step()

    def archive(tx):
        for project in (NETWORK, TRAINING):
            tenancy.update_project(tx, project, replace(project, archived_at_ms=NOW_MS))
        seen = quotas.find(tx, TELCO.id)
        assert seen
        quotas.ROWS.remove(tx, seen.id)

    site.db.write(archive)
    told = site.drifts()
    site.settle()
    accounts = ("acc", "acc_telco", "acc_lab", "acc_telco_network", "acc_lab_training")
    assert set(site.associations(*accounts)) == {
        ("acc", ""),
        ("acc", "tmt-a"),
        ("acc_telco", ""),
        ("acc_lab", ""),
    }
    assert site.associations("acc_telco")["acc_telco", ""][1:3] == ["1", ""]
    records = site.slurm.run("sacctmgr", "-nP", "list", "account", "format=account").split()
    assert "acc_telco_network" not in records
    assert site.drifts() == told
    for name in ("acc_telco", "acc_lab"):  # organizations are for ever; the cluster is shared
        site.slurm.run("sacctmgr", "-i", "delete", "account", f"name={name}")


def test_racks_are_read_from_the_topology(slurm: SlurmCluster) -> None:
    found = racks(Recording(slurm))
    assert found == {node: rack for rack, nodes in slurm.racks.items() for node in nodes}


def test_an_outage_is_no_refusal(slurm: SlurmCluster, tmp_path: Path) -> None:
    slow = Commands(slurm_conf=slurm.conf, timeout_s=0.001)
    unsigned = Commands(slurm_conf=slurm.conf, token=lambda: "no.token.atall")
    nowhere = Commands(slurm_conf=tmp_path / "none.conf", timeout_s=0.5)
    create = ("scontrol", "create", "reservation", "users=root", "starttime=now", "duration=1")
    for commands in (slow, unsigned, nowhere):
        with pytest.raises(DriverUnavailableError):
            commands.run("sacctmgr", "-nP", "list", "account")
        with pytest.raises(DriverUnavailableError):
            commands.run(*create, "nodes=r1n1")
    with pytest.raises(DriverUnavailableError, match="cannot be run here"):
        slow.run("sacctmgr-of-nobody")
    with pytest.raises(ClusterRefusedError, match="Unknown condition"):
        Recording(slurm).run("sacctmgr", "-Qi", "modify", "account", "nome=x", "set", "x=1")
    with pytest.raises(ClusterRefusedError):
        Recording(slurm).run(*create, "nodes=nowhere")
