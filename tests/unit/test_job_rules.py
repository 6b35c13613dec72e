"""What can be no job is refused, with the reason and the nearest that can."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.jobs import spec_of as small_spec
from tests.support.planning import GIB, node_of
from tramontane.domain.fleet import Node, NodeStatus
from tramontane.domain.ids import is_dns_label
from tramontane.domain.jobs.attempt import ShippedFile, Topology
from tramontane.domain.jobs.fit import check_fit, facts_of
from tramontane.domain.jobs.job import SCRIPT_PATH, JobSpec
from tramontane.domain.jobs.rules import FILES_BYTES_MAX, FILES_MAX, NewJob, check_wish, spec_of
from tramontane.domain.launch import PriorityClass
from tramontane.domain.planning.fleet_view import UNNAMED
from tramontane.domain.refusal import Code
from tramontane.domain.resources import Resources

GOOD = NewJob("train", command=("true",))


def file(path: str, content: bytes = b"x") -> ShippedFile:
    return ShippedFile(path, base64.b64encode(content).decode())


def refused(wish: NewJob) -> tuple[str | None, str]:
    refusal = check_wish(wish)
    assert refusal is not None
    assert refusal.code is Code.INVALID_VALUE
    assert refusal.message.isascii()
    assert "\n" not in refusal.message
    return refusal.param, refusal.message


def test_a_plain_wish_passes() -> None:
    assert check_wish(GOOD) is None
    assert check_wish(replace(GOOD, command=(), script="#!/bin/sh\necho 1\n")) is None
    env = (("PATH_2", "a\nb"), ("_x", ""), ("LD_PRELOAD", "lib.so"))
    assert check_wish(replace(GOOD, env=env, files=(file("a/b.txt"), file("a/c")))) is None


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Train", "train"),
        ("a;rm -rf /", "a-rm-rf"),
        ('x"}', "x"),
        ("../up", "up"),
        ("-x-", "x"),
        ("", "my-job"),
        ("a\nb", "a-b"),
        ("x" * 64, "x" * 63),
        ("job_" + "a" * 20, "job-aaaa"),
    ],
)
def test_names_that_would_break_something(name: str, near: str) -> None:
    param, message = refused(replace(GOOD, name=name))
    assert param == "name"
    assert near in message


def test_a_long_name_is_shown_in_part() -> None:
    assert f"'{'x' * 80}'" in refused(replace(GOOD, name="x" * 80))[1]
    assert f"'{'x' * 80}...'" in refused(replace(GOOD, name="x" * 81))[1]


@given(st.text(max_size=80))
def test_whatever_a_name_is_the_nearest_one_can_be_used(name: str) -> None:
    refusal = check_wish(replace(GOOD, name=name))
    if refusal is not None:
        assert is_dns_label(refusal.message.rsplit(" ", 1)[1])
        assert refusal.message.isprintable()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 1\r\necho 2\r\n", "line 1 of script holds a carriage return"),
        ("echo 1\necho 2\r", "line 2 of script"),
        ("echo 1\necho \0", "line 2 of script holds a NUL"),
        (" \n\t", "script is empty"),
        ("x" * (300 << 10), "ship it as a file"),
    ],
)
def test_scripts_that_no_shell_could_run(script: str, told: str) -> None:
    param, message = refused(replace(GOOD, command=(), script=script))
    assert param == "script"
    assert told in message


@given(st.text())
def test_a_script_that_passes_holds_nothing_that_breaks_a_shell(script: str) -> None:
    passes = check_wish(replace(GOOD, command=(), script=script)) is None
    assert passes == (bool(script.strip()) and "\r" not in script and "\0" not in script)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"command": ()}, "neither command nor script"),
        ({"script": "x"}, "both command and script"),
        ({"command": ("",)}, "first word of command is empty"),
        ({"command": ("a", "b\0")}, "NUL"),
        ({"command": ("a",) * 1_001}, "use a script"),
        ({"command": ("a" * 100_001,)}, "use a script"),
    ],
)
def test_commands_that_cannot_be_run(changes: dict[str, object], told: str) -> None:
    _, message = refused(replace(GOOD, **changes))
    assert told in message


@pytest.mark.parametrize(
    "name",
    [
        "SLURM_JOB_ID", "SBATCH_ACCOUNT", "SPANK_X", "SRUN_DEBUG", "TRAMONTANE_JOB", "slurm_x",
        "SALLOC_X", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES", "Rocr_Visible_Devices", "ZE_AFFINITY_MASK",
    ],
)  # fmt: skip
def test_variables_that_would_change_how_it_is_run(name: str) -> None:
    param, message = refused(replace(GOOD, env=((name, "secret-value"),)))
    assert param == f"environment.{name}"
    assert "secret-value" not in message


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("", "_"), ("1A", "_1A"), ("A B", "A_B"), ("A=B", "A_B"), ("A;B", "A_B"), ("A\nB", "A_B"),
        ("Ä", "_"), ("A-B", "A_B"), ("A\0", "A_"), ("x" * 256, "x" * 60),
    ],
)  # fmt: skip
def test_variables_that_no_shell_could_hold(name: str, near: str) -> None:
    param, message = refused(replace(GOOD, env=((name, "v"),)))
    assert param == "environment"
    assert message.endswith(f", such as {near}")


def test_a_value_with_nul_is_refused_and_not_shown() -> None:
    param, message = refused(replace(GOOD, env=(("TOKEN", "hidden\0"),)))
    assert (param, "hidden" in message) == ("environment.TOKEN", False)


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_variable_that_passes_can_be_put_into_an_environment(name: str, value: str) -> None:
    if check_wish(replace(GOOD, env=((name, value),))) is None:
        assert name.isascii()
        assert name.replace("_", "a").isalnum()
        assert "\0" not in value
        assert not name.upper().startswith(("SLURM", "TRAMONTANE_", "SBATCH_"))


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/etc/passwd", "etc/passwd"), ("../other/x", "other/x"), ("a/../../x", "a/x"),
        ("..", "data.txt"), ("a/..", "a"), ("/", "data.txt"), ("//x", "x"), ("/./x", "x"),
    ],
)  # fmt: skip
def test_paths_out_of_the_project(path: str, near: str) -> None:
    param, message = refused(replace(GOOD, files=(file(path),)))
    assert param == "files"
    assert "leads out of the job's working folder" in message
    assert message.endswith(f"such as '{near}'")


@pytest.mark.parametrize(
    "path", ["", "a//b", "./a", "a/./b", "a/", "a\nb", "a\0b", "x" * 256, "\udc80"]
)
def test_paths_that_cannot_be_used(path: str) -> None:
    param, _ = refused(replace(GOOD, files=(file(path),)))
    assert param == "files"


@given(st.text(alphabet="ab./\\\0\n ~$", max_size=12))
def test_a_path_that_passes_stays_below_the_folder(path: str) -> None:
    if check_wish(replace(GOOD, files=(file(path),))) is None:
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert path.isprintable()


def test_files_that_clash_or_are_too_many_or_too_large() -> None:
    for files, told in (
        ((file("a"), file("a")), "two files have the path 'a'"),
        ((file("a"), file("a/b")), "'a' is a file"),
        ((file("a/b/c"), file("a/b"), file("d")), "'a/b' is a file, and 'a/b/c' needs it"),
        ((file(SCRIPT_PATH),), "the script's own"),
        ((file(f"{SCRIPT_PATH}/a"),), "the script's own"),
        ((ShippedFile("a", "not base64!"),), "is not base64"),
        ((ShippedFile("a", "eA==!!!!"),), "is not base64"),
        (tuple(file(f"f{n}") for n in range(FILES_MAX + 1)), "ship an archive"),
        ((file("a", b"x" * FILES_BYTES_MAX), file("b")), "shared folder"),
    ):
        param, message = refused(replace(GOOD, files=files))
        assert param == "files"
        assert told in message


@pytest.mark.parametrize(
    ("field", "value", "near"),
    [
        ("nodes", 0, "1"),
        ("nodes", 5_000, "1024"),
        ("devices", -1, "0"),
        ("time_limit_s", 0, "1"),
        ("time_limit_s", 10**9, "7776000"),
        ("retries", 101, "100"),
        ("array", 0, "1"),
        ("array", 1_001, "1000"),
        ("hang_after_s", 1, "2"),
        ("hang_after_s", 4_000, "3600"),
        ("memory_bytes", 0, "1"),
    ],
)
def test_numbers_out_of_bounds_name_the_nearest(field: str, value: int, near: str) -> None:
    param, message = refused(replace(GOOD, **{field: value}))
    assert param == field
    assert message.endswith(f"such as {near}")


def largest(**changes: object) -> NewJob:
    return replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("passes", "fails"),
    [
        (largest(nodes=1_024), largest(nodes=1_025)),
        (largest(devices=1_024), largest(devices=1_025)),
        (largest(devices=0, retries=0), largest(retries=-1)),
        (largest(cpu_millicores=1), largest(cpu_millicores=0)),
        (largest(cpu_millicores=4_096_000), largest(cpu_millicores=4_096_001)),
        (largest(memory_bytes=1), largest(memory_bytes=0)),
        (largest(memory_bytes=1 << 50), largest(memory_bytes=(1 << 50) + 1)),
        (largest(time_limit_s=1), largest(time_limit_s=0)),
        (largest(time_limit_s=7_776_000), largest(time_limit_s=7_776_001)),
        (largest(retries=100), largest(retries=101)),
        (largest(array=1), largest(array=0)),
        (largest(array=1_000), largest(array=1_001)),
        (largest(hang_after_s=2), largest(hang_after_s=1)),
        (largest(hang_after_s=60, time_limit_s=60), largest(hang_after_s=61, time_limit_s=60)),
        (largest(depends_on=("a",) * 100), largest(depends_on=("a",) * 101)),
        (largest(command=("a",) * 1_000), largest(command=("a",) * 1_001)),
        (largest(command=("a", "a" * 99_999)), largest(command=("a", "a" * 100_000))),
        (
            largest(command=(), script="x" * 262_144),
            largest(command=(), script="x" * 262_145),
        ),
        (
            largest(env=tuple((f"A{n}", "") for n in range(200))),
            largest(env=tuple((f"A{n}", "") for n in range(201))),
        ),
        (largest(env=(("A" * 255, ""),)), largest(env=(("A" * 256, ""),))),
        (
            largest(env=(("A", "x" * 49_999), ("B", "x" * 49_999))),
            largest(env=(("A", "x" * 49_999), ("B", "x" * 50_000))),
        ),
        (
            largest(files=tuple(file(f"f{n}") for n in range(200))),
            largest(files=tuple(file(f"f{n}") for n in range(201))),
        ),
        (largest(files=(file("x" * 255),)), largest(files=(file("x" * 256),))),
        (
            largest(files=(file("a", b"x" * (1 << 20)),)),
            largest(files=(file("a", b"x" * (1 << 20)), file("b"))),
        ),
        (largest(files=(file("a"), file("ab"))), largest(files=(file("a"), file("a/b")))),
    ],
)
def test_each_bound_is_where_it_is_said_to_be(passes: NewJob, fails: NewJob) -> None:
    assert check_wish(passes) is None
    refused(fails)


def test_what_is_not_told_is_what_the_documentation_says() -> None:
    spec, _ = spec_of(GOOD)
    assert (spec.nodes, spec.resources) == (1, Resources(1_000, GIB, 0))
    assert (spec.time_limit_s, spec.retries, spec.array, spec.hang_after_s) == (
        3_600,
        0,
        None,
        None,
    )


def test_a_spec_says_all_of_the_wish() -> None:
    wish = replace(
        GOOD,
        nodes=2,
        devices=4,
        cpu_millicores=500,
        memory_bytes=5 << 30,
        env=(("B", "2"), ("A", "1")),
        files=(file("a/b"),),
        priority_class=PriorityClass.SPOT,
        time_limit_s=60,
        retries=3,
        depends_on=("x", "y", "x"),
        array=7,
        topology=Topology.SPREAD,
        hang_after_s=9,
        cluster="alps",
    )
    spec, files = spec_of(wish)
    assert files == wish.files
    assert spec == JobSpec(
        command=("true",),
        resources=Resources(500, 5 << 30, 4),
        time_limit_s=60,
        nodes=2,
        env=(("A", "1"), ("B", "2")),
        file_paths=("a/b",),
        priority_class=PriorityClass.SPOT,
        retries=3,
        depends_on=("x", "y"),
        array=7,
        topology=Topology.SPREAD,
        hang_after_s=9,
        cluster="alps",
    )


def test_a_script_becomes_a_file_that_is_run() -> None:
    spec, files = spec_of(replace(GOOD, command=(), script="echo ü\n"))
    assert spec.command == ("/bin/sh", SCRIPT_PATH)
    assert base64.b64decode(files[0].content) == "echo ü\n".encode()
    spec, files = spec_of(replace(GOOD, command=(), script="#!/usr/bin/python3\n"))
    assert spec.command == (f"./{SCRIPT_PATH}",)
    assert files[0].is_executable
    assert spec.file_paths == (SCRIPT_PATH,)


# Whether it fits


def racked(number: int, rack: str | None, devices: int = 4) -> Node:
    return replace(node_of(number, devices=devices), rack=rack)


RACKS = [racked(1, "r1"), racked(2, "r1"), racked(3, "r2"), racked(4, "r2"), racked(5, "r2")]
GANG = small_spec(resources=Resources(1_000, GIB, 4))


def unfit(
    spec: object, nodes: list[Node], devices_max: int | None = None
) -> tuple[str | None, str]:
    assert hasattr(spec, "cluster")
    refusal = check_fit(spec, [facts_of("alps", nodes)], devices_max)  # pyright: ignore[reportArgumentType]
    assert refusal is not None
    return refusal.param, refusal.message


def test_what_fits_passes() -> None:
    for topology, nodes in ((Topology.RACK, 3), (Topology.ANY, 5), (Topology.SPREAD, 2)):
        spec = replace(GANG, nodes=nodes, topology=topology)
        assert check_fit(spec, [facts_of("alps", RACKS)], 20) is None


def test_more_than_any_node_has() -> None:
    param, message = unfit(replace(GANG, resources=Resources(1_000, GIB, 8)), RACKS)
    assert param == "devices"
    assert "node-1 of cluster alps, has 8 CPU, 16.0 GiB memory, 4 devices" in message
    assert message.endswith("ask for at most 1 CPU, 1.0 GiB memory, 4 devices")
    param, message = unfit(replace(GANG, resources=Resources(1_000, 64 * GIB, 1)), RACKS)
    assert param == "memory_bytes"
    assert message.endswith("ask for at most 1 CPU, 16.0 GiB memory, 1 device")
    param, _ = unfit(replace(GANG, resources=Resources(99_000, GIB)), RACKS)
    assert param == "cpu_millicores"


def test_more_nodes_than_the_cluster_or_the_rack_has() -> None:
    param, message = unfit(replace(GANG, nodes=6), RACKS)
    assert param == "nodes"
    assert message.endswith("cluster alps has 5: ask for at most 5 nodes")
    param, message = unfit(replace(GANG, nodes=4, topology=Topology.RACK), RACKS)
    assert param == "nodes"
    assert "rack r2 of cluster alps, the largest, has 3: ask for at most 3 nodes" in message
    assert message.endswith(", or for another topology than rack")
    none = [racked(n, None) for n in (1, 2)]
    param, message = unfit(replace(GANG, nodes=2, topology=Topology.RACK), none)
    assert param == "topology"
    assert "tells of no racks" in message
    assert check_fit(replace(GANG, topology=Topology.RACK), [facts_of("a", none)], None) is None


def test_more_than_the_quota() -> None:
    param, message = unfit(replace(GANG, nodes=3), RACKS, 8)
    assert param == "nodes"
    assert "quota of its project is 8: ask for at most 2 nodes of 4 devices" in message
    param, message = unfit(GANG, RACKS, 3)
    assert param == "devices"
    assert "at most 3 devices" in message
    assert check_fit(replace(GANG, nodes=2), [facts_of("alps", RACKS)], 8) is None


def test_an_unknown_cluster() -> None:
    param, message = unfit(replace(GANG, cluster="alsp"), RACKS)
    assert param == "cluster"
    assert "expected one of alps" in message


def test_only_what_is_certain_is_refused() -> None:
    huge = replace(GANG, nodes=100)
    assert check_fit(huge, [], None) is None
    assert check_fit(huge, [facts_of("alps", [])], None) is None
    lost = replace(RACKS[0], status=NodeStatus.LOST)
    assert check_fit(huge, [facts_of("alps", [lost])], None) is None
    down = [replace(node, status=NodeStatus.LOST, reason="down: new disks") for node in RACKS]
    assert check_fit(replace(GANG, nodes=5), [facts_of("alps", down)], None) is None
    gone = [replace(node, status=NodeStatus.LOST, reason=UNNAMED) for node in RACKS[:2]]
    assert "has 3: ask for at most 3" in unfit(replace(GANG, nodes=5), [*gone, *RACKS[2:]])[1]
    away = [replace(node, status=NodeStatus.UNKNOWN) for node in RACKS]
    assert check_fit(replace(GANG, nodes=5), [facts_of("alps", away)], None) is None
    assert (
        check_fit(replace(GANG, nodes=5), [facts_of("a", RACKS[:1]), facts_of("b", RACKS)], None)
        is None
    )
