"""``tramontane jobs``: job files, with the line of each mistake, and following to the end."""

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cli import CommandLine, Reply, Request, Stub, error, listing
from tramontane.cli.commands.jobs import file as job_file
from tramontane.cli.commands.jobs import watching
from tramontane.cli.exits import CommandError
from tramontane.wire.cloud_jobs import CreateJob

Serve = Callable[[Any], Stub]
Against = Callable[[Stub], CommandLine]
JOB: dict[str, Any] = {"id": "job_1", "name": "train", "status": "pending", "array": None}
ATTEMPT: dict[str, Any] = {"id": "att_1", "index": 0, "number": 1, "status": "running"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_S", 0.01)


def write(text: str | bytes, name: str = "job.yaml") -> Path:
    path = Path(name)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(text: str | bytes) -> str:
    with pytest.raises(CommandError) as raised:
        job_file.read(write(text))
    assert raised.value.code == 2
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_that_a_job_file_can_say(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "train.py").write_text("print(1)\n")
    (folder / "src" / "train.py").chmod(0o755)
    body = job_file.read(
        write(
            """\
name: train
script: |
  echo one
  echo two
nodes: 2
devices: 4
cpus: 0.5
memory: 16GiB
time_limit: 1h30m
retries: 3
hang_after: 10m
depends_on: prepare
array: 5
topology: rack
priority_class: spot
cluster: alps
project: lab
environment: {A: text, B: 3, C: 0.5}
files:
  in/train.py: src/train.py
"""
        )
    )
    content = base64.b64encode(b"print(1)\n").decode()
    assert body == {
        "name": "train",
        "script": "echo one\necho two\n",
        "nodes": 2,
        "devices": 4,
        "cpu_millicores": 500,
        "memory_bytes": 16 << 30,
        "time_limit_s": 5_400,
        "retries": 3,
        "hang_after_s": 600,
        "depends_on": ["prepare"],
        "array": 5,
        "topology": "rack",
        "priority_class": "spot",
        "cluster": "alps",
        "project": "lab",
        "environment": {"A": "text", "B": "3", "C": "0.5"},
        "files": [{"path": "in/train.py", "content": content, "is_executable": True}],
    }
    CreateJob.model_validate(body)


def test_every_key_leads_to_a_field_of_the_api() -> None:
    fields = {name for name, _ in job_file._FIELDS.values()}
    assert fields == set(CreateJob.model_fields)


def test_the_example_is_a_job(folder: Path, command_line: CommandLine) -> None:
    run = command_line("jobs", "example")
    assert (run.code, run.out) == (0, job_file.EXAMPLE)
    CreateJob.model_validate(job_file.read(write(run.out)))
    lines = run.out.replace("# ", "").splitlines()
    known = {line.split(":")[0] for line in lines if ":" in line and line[0] not in " #"}
    assert {"name", "script", "array", "depends_on", "hang_after", "files"} <= known


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "name: a\nscirpt: b\n",
            "line 2: 'scirpt' is not known in a job file; did you mean script?",
        ),
        ("name: a\nname: b\n", "line 2: 'name' stands on line 1 already"),
        ("name: a\n  b: c\n", "line 2 is not YAML"),
        ("name: [a\n", "is not YAML"),
        ("- a\n- b\n", "must hold lines such as `name: my-job`"),
        ("", "must hold lines such as"),
        ("name: 5\n", "line 1: name must be a text; put it in quotes"),
        ("nodes: two\n", "line 1: nodes must be a whole number"),
        ("nodes: true\n", "nodes must be a whole number"),
        ("cpus: many\n", "cpus must be a number of CPU cores"),
        ("memory: 16 gigs\n", "memory must be a size such as 16GiB"),
        ("time_limit: soon\n", "time_limit must be a duration such as 90s"),
        ("time_limit: ''\n", "time_limit must be a duration"),
        ("command: python train.py\n", "command must be a list of words"),
        ("command: [a, {b: c}]\n", "command[1] must be a text"),
        ("environment: [A]\n", "environment must hold lines such as"),
        ("environment: {A: true}\n", "environment.A must be a text; put it in quotes"),
        ("files: [a]\n", "files must hold lines such as"),
        ("files: {a: nowhere}\n", "cannot read nowhere: no such file or directory"),
        ("files: {a: .}\n", "is a directory"),
        ("cpus: 1\ncpu_millicores: 5\n", "says again what another line says"),
        (b"name: \xff\n", "is not YAML"),
        ("script: \0\n", "is not YAML"),
        ("x: &a [*a]\nname: *b\n", "line 2 is not YAML"),
        ("name: !!python/object:os.system a\n", "is not YAML"),
        ("? [a]\n: b\n", "is not"),
        ("a: " + "[" * 5_000, "is not YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line(folder: Path, text: str | bytes, told: str) -> None:
    message = refused(text)
    assert message.startswith("job.yaml")
    assert told in message


def test_large_files_are_told_before_they_are_sent(folder: Path) -> None:
    (folder / "large").write_bytes(b"x" * ((1 << 20) + 1))
    assert "have more than 1 MiB" in refused("files: {a: large}\n")
    (folder / "half").write_bytes(b"x" * (600 << 10))
    assert "with half the files have more" in refused("files: {a: half, b: half}\n")
    assert "is larger than 2 MiB" in refused("#" * ((2 << 20) + 1))
    with pytest.raises(CommandError, match=r"cannot read nowhere\.yaml: no such file"):
        job_file.read(Path("nowhere.yaml"))


@pytest.mark.parametrize("line", ["0x10: a", "1_0: a", "<<: {name: a}", "null: a", "[a]: b"])
def test_a_key_that_is_no_word_is_refused_with_its_line(folder: Path, line: str) -> None:
    assert "line 2" in refused(f"name: train\n{line}\n")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_the_file_holds_it_is_read_or_refused(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(CommandError):
            job_file.read(Path(file.name))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5_400), ("2d", 172_800), ("1d1h1m1s", 90_061)],
)
def test_durations(text: str, seconds: int) -> None:
    assert job_file.seconds("x", text) == seconds
    assert job_file.seconds("x", seconds) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4_096),
        ("1KiB", 1_024),
        ("16G", 16 << 30),
        ("1.5GiB", 3 << 29),
        ("16GB", 16 * 10**9),
        ("2 MiB", 2 << 20),
        ("512m", 512 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert job_file.size_bytes("x", text) == size


def answer(statuses: list[str], logs: dict[int, list[bytes]]) -> Callable[[Request], Reply]:
    """Return a server whose attempts write ``logs``, piece by piece, and end as ``statuses``."""
    over = [False] * len(statuses)

    def reply(request: Request) -> Reply:
        done = all(over)
        job = {**JOB, "status": "pending" if not any(over) else "running"}
        if done:
            job |= {"status": statuses[-1], "started_at_ms": 1_000, "ended_at_ms": 3_500}
        if request.method == "POST":
            assert request.headers["Idempotency-Key"]
            return Reply(job, 201)
        if request.path.endswith("/attempts"):
            made = [
                {**ATTEMPT, "number": n + 1, "status": statuses[n] if over[n] else "running"}
                | ({"ended_at_ms": 3_500, "reason": f"end {n + 1}"} if over[n] else {})
                for n in range(len(statuses))
                if n == 0 or over[n - 1]
            ]
            return listing(*made)
        if request.path.endswith("/logs"):
            number, offset = int(request.query["attempt"]), int(request.query["offset"])
            whole = b"".join(logs[number])
            over[number - 1] = offset >= len(logs[number][0])
            piece = whole[offset:] if offset else logs[number][0]
            return Reply(piece, headers={"Content-Type": "text/plain"})
        return Reply(job)

    return reply


def test_following_prints_every_attempt_and_leaves_with_how_it_ended(
    folder: Path, serve: Serve, against: Against
) -> None:
    write("name: train\nscript: echo\n")
    logs = {1: [b"one\n", b"tw\xc3"], 2: [b"three\r", b"four\n"]}
    run = against(serve(answer(["preempted", "succeeded"], logs)))(
        "jobs", "submit", "job.yaml", "-f"
    )
    assert run.code == 0, run.err
    assert run.out == "one\ntw\ufffd\nthree\nfour\n"
    assert "attempt 1 preempted: end 1" in run.err
    assert run.err.endswith("train succeeded (2.5 s)\n")
    run = against(serve(answer(["failed"], {1: [b"no\n", b""]})))(
        "jobs", "logs", "train", "--follow"
    )
    assert (run.code, run.out) == (1, "no\n")
    assert "train failed" in run.err


def test_following_an_array_says_where_its_output_is(
    folder: Path, serve: Serve, against: Against
) -> None:
    write("name: train\nscript: echo\narray: 2\n")
    job = JOB | {"array": 2, "status": "succeeded"}
    run = against(serve(Reply(job)))("jobs", "submit", "job.yaml", "-f")
    assert (run.code, run.out) == (0, "")
    assert "`tramontane jobs logs job_1 --index N` prints what one wrote" in run.err


def test_a_bound_of_readers_stops_who_begins_and_holds_up_who_reads_on(
    folder: Path, serve: Serve, against: Against
) -> None:
    write("name: train\nscript: echo\n")
    full = error(429, "rate_limit_exceeded", "2 logs are being read", retry_after="5")
    plain = answer(["succeeded"], {1: [b"one\n", b"two\n"]})
    seen: list[str] = []

    def later(request: Request) -> Reply:
        if request.path.endswith("/logs"):
            seen.append(request.query["offset"])
            if len(seen) in {2, 3}:
                return full
        return plain(request)

    run = against(serve(later))("jobs", "submit", "job.yaml", "-f")
    assert (run.code, run.out) == (0, "one\ntwo\n"), run.err
    assert seen[:4] == ["0", "4", "4", "4"]

    def at_once(request: Request) -> Reply:
        return full if request.path.endswith("/logs") else plain(request)

    run = against(serve(at_once))("jobs", "logs", "train", "--follow")
    assert (run.code, run.out) == (6, "")
    assert "2 logs are being read" in run.err


def test_which_output_is_asked_for(serve: Serve, against: Against) -> None:
    stub = serve(Reply(b"a\n", headers={"Content-Type": "text/plain"}))
    run = against(stub)("jobs", "logs", "a b", "--attempt", "2", "--rank", "1", "--lines", "5")
    assert (run.code, run.out) == (0, "a\n")
    (request,) = stub.requests
    assert request.path == "/cloud/v1/jobs/a%20b/logs"
    assert request.query == {"attempt": "2", "rank": "1", "index": "0", "lines": "5"}


def test_output_cannot_play_with_the_terminal(serve: Serve, against: Against) -> None:
    run = against(serve(Reply(b"\x1b[2Jred\x07\n", headers={"Content-Type": "text/plain"})))(
        "jobs", "logs", "train"
    )
    assert (run.code, run.out) == (0, "?[2Jred?\n")


@pytest.mark.slow
def test_waiting_ends_with_the_job_or_the_time(serve: Serve, against: Against) -> None:
    left = [JOB, JOB, {**JOB, "status": "failed", "reason": "exit code 3"}]

    def reply(request: Request) -> Reply:
        if request.path.endswith("/attempts"):
            return listing({**ATTEMPT, "status": "queued", "starts_at_ms": 1_700_000_000_000})
        return Reply(left.pop(0))

    run = against(serve(reply))("jobs", "wait", "train")
    assert run.code == 1
    assert "its cluster expects to start it 2023-11-14 22:13:20Z" in run.err
    assert run.err.endswith("train failed: exit code 3\n")
    run = against(serve(lambda r: listing() if r.path.endswith("s") else Reply(JOB)))(
        "jobs", "wait", "train", "--timeout", "1"
    )
    assert run.code == 6
    assert "gave up after 1 s: train pending; it goes on" in run.err


@pytest.mark.slow
def test_an_outage_is_waited_out(serve: Serve, against: Against) -> None:
    left = [
        Reply(JOB),
        error(503, "unavailable", "the database is away"),
        Reply({**JOB, "status": "succeeded"}),
    ]

    def reply(request: Request) -> Reply:
        return listing() if request.path.endswith("/attempts") else left.pop(0)

    assert against(serve(reply))("jobs", "wait", "train").code == 0


def test_submitting_prints_the_job(folder: Path, serve: Serve, against: Against) -> None:
    write("name: train\ncommand: [a, 1]\n")
    stub = serve(Reply(JOB, 201))
    run = against(stub)("jobs", "submit", "job.yaml", "--project", "lab", "--json")
    assert json.loads(run.out) == JOB
    (request,) = stub.requests
    assert request.body == {"name": "train", "command": ["a", "1"], "project": "lab"}
    assert len(request.headers["Idempotency-Key"]) == 32
