"""Parts of the runner by themselves: files that are laid out, logs that are cut, ranks."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tramontane.runner import gang
from tramontane.runner.output import cap_log, explain, last_lines, plain, replace_file, tail_lines
from tramontane.runner.work import lay_files, make_folder


def file(path: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"path": path, "content": base64.b64encode(content).decode(), **more}


def test_files_are_laid_out_with_their_bytes_and_modes(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    files = [
        file("a", b"one\0\xff"),
        file("b/c/run", b"#!/bin/sh\n", is_executable=True),
        file("b/c/d", b""),
    ]
    lay_files(str(tmp_path), [file("a", b"older and longer"), *files])
    made = {str(it.relative_to(tmp_path)) for it in tmp_path.rglob("*")}
    assert made == {"a", "b", "b/c", "b/c/run", "b/c/d"}, "and no draft"
    assert (tmp_path / "a").read_bytes() == b"one\0\xff"
    assert (tmp_path / "b/c/run").read_bytes() == b"#!/bin/sh\n"
    modes = [(tmp_path / it).stat().st_mode & 0o777 for it in ("a", "b/c/run", "b", "b/c")]
    assert modes == [0o600, 0o700, 0o700, 0o700]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("path", ["", "/x", "../x", "a/../x", "./x", "a//x", "a/", "a\0", ".."])
def test_a_path_that_leads_out_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="is not a relative path inside the working folder"):
        lay_files(str(tmp_path), [file(path, b"x")])
    with pytest.raises(ValueError, match="is not a relative path"):
        make_folder(str(tmp_path), path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("taken", "link"):
        with pytest.raises(OSError, match=f"{name} is in the way of a folder"):
            lay_files(str(tmp_path), [file(f"{name}/x", b"x")])
        with pytest.raises(OSError, match=f"{name} is in the way of a folder"):
            make_folder(str(tmp_path), name)
    with pytest.raises(ValueError, match=r"[Bb]ase64|padding|Only"):
        lay_files(str(tmp_path), [{"path": "x", "content": "eA==!"}])
    assert make_folder(str(tmp_path), "new") == f"{tmp_path}/new"
    assert make_folder(str(tmp_path), "new") == f"{tmp_path}/new"
    assert {it.name for it in tmp_path.iterdir()} == {"taken", "link", "new"}


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 50 + b"\nabc\ndef\n")
    assert tail_lines(str(log), 9, bytes_max=8) == ["abc", "def"]
    assert tail_lines(str(log), 9, bytes_max=7) == ["bc", "def"]
    assert last_lines(b"a\nb\nc", 2) == ["b", "c"]
    assert last_lines(b"a", -1) == []


def test_a_reason_holds_the_end_of_the_log_and_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert explain("it ended", str(log), "hush") == "it ended"
    log.write_text("".join(f"line {n} hush\n" for n in range(30)))
    told = explain("it ended", str(log), "hush").splitlines()
    assert told == ["it ended:", *(f"line {n} ***" for n in range(10, 30))]
    assert "hush" in explain("it ended", str(log), "")
    log.write_text("ü" * 5_000)
    told = explain("it ended", str(log), "")
    assert len(told.encode()) in {4_095, 4_096}
    assert set(told.splitlines()[1]) == {"ü"}


def test_texts_of_reports_are_plain_and_short() -> None:
    assert plain(None) is None
    assert plain("\x1b[31mred\x1b[0m\x07\udc80") == "red?"
    assert plain("x" * 5_000) == "x" * 4_096


def test_a_log_that_is_too_long_is_cut_and_its_end_kept(tmp_path: Path) -> None:
    log, older = tmp_path / "log", tmp_path / "log.1"
    log.write_bytes(bytes(range(100)))
    assert cap_log(str(log), 100) == 0
    assert not older.exists()
    assert cap_log(str(log), 80) == 100
    assert older.read_bytes() == bytes(range(30, 100)), "seven eighths of what there is room for"
    assert log.read_bytes() == b""
    assert cap_log(str(tmp_path / "absent"), 1) == 0
    assert {it.name for it in tmp_path.iterdir()} == {"log", "log.1"}


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"older and longer")
    replace_file(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert [it.name for it in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("said", "nodes", "rank"),
    [("0", 2, 0), ("1", 2, 1), ("2", 2, None), ("-1", 2, None), ("", 2, None), ("7", 1, 0)],
)
def test_a_node_knows_its_rank(
    monkeypatch: pytest.MonkeyPatch, said: str, nodes: int, rank: int | None
) -> None:
    monkeypatch.setenv(gang.RANK_ENV, said)
    if rank is not None:
        assert gang.own_rank(nodes) == rank
        return
    with pytest.raises(ValueError, match=f"must be a number below {nodes}, and it is '{said}'"):
        gang.own_rank(nodes)


def test_each_node_reports_into_a_file_of_its_own() -> None:
    names = [gang.report_name(rank) for rank in range(3)]
    assert names == ["report.json", "report.1.json", "report.2.json"]


def test_a_node_finds_its_address() -> None:
    assert gang.own_address("http://127.0.0.1:8080/x") == "127.0.0.1"
    assert gang.own_address("http://127.0.0.1") == "127.0.0.1"
