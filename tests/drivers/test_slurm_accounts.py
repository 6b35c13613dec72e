"""What sacctmgr and scontrol are told, and what is read from them, without a cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

from tramontane.domain.quotas.accounts import Account, Membership, Qos, Reservation
from tramontane.domain.quotas.accounts_plan import (
    DropAccount,
    DropMembership,
    DropReservation,
    PutAccount,
    PutMembership,
    PutQos,
    PutReservation,
    SetDefaultAccount,
)
from tramontane.drivers.accounts import ClusterRefusedError
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.accounts import commands_of, parse_reservations
from tramontane.drivers.slurm.commands import Commands, parse_topology
from tramontane.drivers.slurm.scontrol import Scontrol

ACME = Account("tmt_acme", "root", 3, 16, frozenset({"tmt_spot"}), "tmt_spot")
USER = Membership("tmt_acme_web", "u", frozenset({"tmt_spot"}), "tmt_spot")
KEPT = Reservation("tmt_acme_r1", frozenset({"tmt_acme"}), frozenset({"n2", "n1"}))
SPOT = Qos("tmt_spot")


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (PutQos(SPOT), "add qos name=tmt_spot preemptmode=cancel"),
        (
            PutQos(Qos("tmt_r", 9, frozenset({"b"})), Qos("tmt_r", 1, frozenset({"a"}), 5)),
            (
                "modify qos name=tmt_r set priority=9 gracetime=0 preempt-=a preempt+=b "
                "preemptmode=cancel"
            ),
        ),
        (
            PutAccount(ACME),
            (
                "add account name=tmt_acme cluster=alps parent=root description=tmt_acme "
                "organization=ins_1 fairshare=3 grptres=gres/gpu=16 qos=tmt_spot "
                "defaultqos=tmt_spot"
            ),
        ),
        (
            PutAccount(replace(ACME, devices_max=None), replace(ACME, parent="x", share=None)),
            (
                "modify account name=tmt_acme cluster=alps set parent=root fairshare=3 "
                "grptres=gres/gpu=-1"
            ),
        ),
        (
            PutMembership(USER),
            ("add user name=u account=tmt_acme_web cluster=alps qos=tmt_spot defaultqos=tmt_spot"),
        ),
        (
            PutMembership(USER, replace(USER, default_qos=None)),
            (
                "modify user name=u account=tmt_acme_web cluster=alps set qos=tmt_spot "
                "defaultqos=tmt_spot"
            ),
        ),
        (
            SetDefaultAccount("u", "a"),
            "modify user name=u cluster=alps set defaultaccount=a",
        ),
        (DropMembership("a", "u"), "delete user name=u account=a cluster=alps"),
        (DropAccount("a"), "delete account name=a cluster=alps"),
        (
            PutReservation(KEPT),
            (
                "scontrol create reservation reservationname=tmt_acme_r1 nodes=n1,n2 "
                "accounts=tmt_acme starttime=now duration=infinite flags=magnetic,ignore_jobs"
            ),
        ),
        (
            PutReservation(KEPT, replace(KEPT, is_ending=True)),
            (
                "scontrol update reservationname=tmt_acme_r1 nodes=n1,n2 accounts=tmt_acme "
                "flags+=magnetic endtime=now+365days"
            ),
        ),
        (DropReservation("tmt_r"), "scontrol delete reservationname=tmt_r"),
    ],
)
def test_each_action_is_one_command(action: object, line: str) -> None:
    (argv,) = commands_of(action, "alps", "ins_1")  # pyright: ignore[reportArgumentType]
    assert " ".join(argv).removeprefix("sacctmgr -Qi ") == line
    assert argv[0] in {"sacctmgr", "scontrol"}


def test_racks_of_a_tree_and_of_blocks() -> None:
    tree = (
        "SwitchName=rack1 Level=0 LinkSpeed=1 Nodes=r1n[1-2]\n"
        "SwitchName=spine Level=1 LinkSpeed=1 Nodes=r1n[1-2] Switches=rack1\n"
    )
    assert parse_topology(tree) == {"r1n1": "rack1", "r1n2": "rack1"}
    blocks = (  # topology/block of Slurm 23.11 and newer
        "BlockName=b1 BlockIndex=0 Nodes=n[1-2] BlockSize=2\n"
        "BlockName=b2 BlockIndex=1 Nodes=n3,n4 BlockSize=2\n"
        "AggregatedBlock=b[1-2] BlockIndex=2 Nodes=n[1-4] BlockSize=4\n"
    )
    assert parse_topology(blocks) == {"n1": "b1", "n2": "b1", "n3": "b2", "n4": "b2"}
    assert parse_topology("No topology information available\n") == {}


def test_reservations_as_they_are_shown() -> None:
    line = (
        "ReservationName=tmt_a StartTime=2026-11-23T00:00:00 EndTime={} Duration=365-00:00:00 "
        "Nodes={} NodeCnt=2 Users=(null) Accounts=tmt_acme,x Flags=IGNORE_JOBS,{} State=ACTIVE\n"
    )
    printed = line.format("2027-11-23T00:00:00", "n[1-2]", "MAGNETIC")
    made = Reservation("tmt_a", frozenset({"tmt_acme", "x"}), frozenset({"n1", "n2"}))
    ends_ms = 1_826_928_000_000
    assert parse_reservations(printed, ends_ms) == {"tmt_a": made}
    assert parse_reservations(printed, ends_ms + 1) == {"tmt_a": replace(made, is_ending=True)}
    odd = line.format("NONE", "n[1-", "SPEC_NODES")  # somebody else's: no reason to stop
    assert parse_reservations(odd, ends_ms) == {
        "tmt_a": replace(made, nodes=frozenset(), draws=False)
    }
    assert parse_reservations("No reservations in the system\n", 0) == {}


@pytest.mark.parametrize(
    ("said", "status", "expected"),
    [
        (" Nothing new added.", 1, None),
        (" Nothing modified", 1, None),
        ("sacctmgr: error: Unable to contact slurm controller (connect failure)", 1, True),
        ("sacctmgr: error: DBD_GET_ASSOCS failure: Unspecified error", 1, True),
        ("scontrol: error: Socket timed out on send/recv operation", 1, True),
        ("Error creating the reservation: Requested nodes are busy", 1, False),
        (" Problem adding QOS: Access/permission denied", 1, False),
        ("", 1, False),
        (" These associations don't have access to their default qos.", 0, False),
    ],
)
def test_an_outage_and_a_refusal(
    tmp_path: Path, said: str, status: int, expected: bool | None
) -> None:
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit {status}\n")
    command.chmod(0o755)
    if expected is None:
        assert Commands().run(str(command)) == ""
        return
    kind = DriverUnavailableError if expected else ClusterRefusedError
    with pytest.raises(kind) as raised:
        Commands().run(str(command))
    assert "\n" not in str(raised.value)


def test_a_command_sees_an_environment_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SECRET", "x")
    (tmp_path / "slurm.conf").touch()
    commands = Commands(slurm_conf=tmp_path / "slurm.conf", token=lambda: "a.b.c")
    seen = dict(line.split("=", 1) for line in commands.run("env").splitlines())
    assert seen["SLURM_CONF"] == str(tmp_path / "slurm.conf")
    assert seen["SLURM_JWT"] == "a.b.c"
    assert seen["TZ"] == "UTC"
    assert not {"SLURM_TIME_FORMAT", "SECRET"} & set(seen)
    hostile = "$(touch x); `id` | & \n*"
    assert commands.run("printf", "%s", hostile) == hostile


def test_a_slurm_conf_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    commands = Commands(slurm_conf=tmp_path / "none.conf")
    with pytest.raises(DriverUnavailableError, match=r"cannot read slurm_conf .*none\.conf"):
        commands.run("touch", str(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


def test_why_racks_are_not_known_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conf = tmp_path / "slurm.conf"
    scontrol = Scontrol(Commands(slurm_conf=conf))
    with caplog.at_level("WARNING"):
        assert [scontrol.racks() for _ in range(3)] == [{}] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"racks are not known: cannot read slurm_conf {conf}, which scontrol needs"
    ]


def test_what_was_printed_is_kept_for_a_while(tmp_path: Path) -> None:
    command = tmp_path / "count"
    command.write_text(f"#!/bin/sh\necho x >> {tmp_path}/calls\nwc -l < {tmp_path}/calls\n")
    command.chmod(0o755)
    commands = Commands()
    assert [commands.kept(str(command), age_s=60).strip() for _ in range(3)] == ["1"] * 3
    assert commands.kept(str(command), age_s=0).strip() == "2"
