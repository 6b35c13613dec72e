"""What the runner reads: metrics pages, logs, process tables."""

import os
from pathlib import Path

import pytest

from tramontane.runner.engine import read_series
from tramontane.runner.linux import start_ticks
from tramontane.runner.output import tail_lines

PAGE = """\
# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 3 1700000000000
vllm:num_requests_running_total 90
llamacpp:requests_deferred 7
broken nan
endless 1e400
negative -1
words many
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vllm:num_requests_running", 5),
        ("llamacpp:requests_deferred", 7),
        ("llamacpp:requests", None),
        ("broken", None),
        ("endless", None),
        ("negative", None),
        ("words", None),
        ("absent", None),
    ],
)
def test_series_are_summed_over_their_labels(name: str, value: int | None) -> None:
    assert read_series(PAGE, name) == value


def test_last_lines_come_without_escapes_and_overwritten_text(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(
        b"first\n\x1b[31mred\x1b[0m text\n\n10%\r50%\r100% loaded\r\n"
        b"\x1b]0;title\x07named \x1b]8;;http://x\x1b\\link\n\xff broken utf-8\x00\x08\nlast"
    )
    assert tail_lines(str(log), 100) == [
        "first",
        "red text",
        "100% loaded",
        "named link",
        "\ufffd broken utf-8",
        "last",
    ]
    assert tail_lines(str(log), 1) == ["last"]
    assert tail_lines(str(log), 0) == []
    assert tail_lines(str(tmp_path / "absent"), 5) == []


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines = tail_lines(str(log), 100_000, bytes_max=1_000)
    assert lines[-1] == "line 99999"
    assert len(lines) < 100


def test_a_process_has_a_start_as_long_as_it_lives() -> None:
    assert start_ticks(os.getpid()) == start_ticks(os.getpid())
    assert start_ticks(os.getpid()) is not None
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(pid) is None  # a zombie runs no more
    os.waitpid(pid, 0)
    assert start_ticks(pid) is None
