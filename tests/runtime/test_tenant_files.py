"""Reading where a tenant writes: nothing but its own regular files, whatever it puts in the way."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.runtime.tenant_files import TenantFileError, read_range, read_tail, size_of

UID = os.getuid()
SECRET = b"another's secret"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "job" / "attempt").mkdir(parents=True)
    (folder / "job" / "attempt" / "log.0").write_bytes(b"0123456789")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "log.0").write_bytes(SECRET)
    return folder


def test_parts_of_a_file(root: Path) -> None:
    path = "job/attempt/log.0"
    assert read_range(root, path, UID, offset=0, bytes_max=4) == b"0123"
    assert read_range(root, path, UID, offset=8, bytes_max=4) == b"89"
    assert read_range(root, path, UID, offset=10, bytes_max=4) == b""
    assert read_range(root, path, UID, offset=1 << 40, bytes_max=4) == b""
    assert read_tail(root, path, UID, bytes_max=3) == b"789"
    assert read_tail(root, path, UID, bytes_max=100) == b"0123456789"
    assert size_of(root, path, UID) == 10


def test_never_more_than_a_piece_is_read_at_a_time(root: Path) -> None:
    size, most = 17 << 20, 16 << 20
    os.truncate(root / "job" / "attempt" / "log.0", size)
    path = "job/attempt/log.0"
    whole = read_range(root, path, UID, offset=0, bytes_max=1 << 40)
    tail = read_tail(root, path, UID, bytes_max=1 << 40)
    assert whole is not None
    assert tail is not None
    assert (len(whole), len(tail)) == (most, most)
    assert (whole[:10], tail[:10]) == (b"0123456789", bytes(10))
    assert read_range(root, path, UID, offset=-5, bytes_max=4) == b"0123"
    assert read_range(root, path, UID, offset=size - 1, bytes_max=4) == b"\0"


@pytest.mark.parametrize("path", ["none", "job/none", "none/log.0", "job/attempt/log.0.1"])
def test_what_is_not_there_is_none(root: Path, path: str) -> None:
    assert read_range(root, path, UID, offset=0, bytes_max=4) is None
    assert read_tail(root, path, UID, bytes_max=4) is None
    assert size_of(root, path, UID) is None


@pytest.mark.parametrize(
    "path", ["../outside/log.0", "/etc/passwd", "job/../../outside/log.0", "", ".", "job//x", "a\0"]
)
def test_paths_lead_down_only(root: Path, path: str) -> None:
    with pytest.raises(TenantFileError):
        read_range(root, path, UID, offset=0, bytes_max=100)


@given(st.text(st.sampled_from(["/", ".", "a", "j", "\0", "~", "\\", "é"]), max_size=12))
def test_no_path_reads_the_outside(path: str) -> None:
    root = Path("/proc/self/fdinfo")  # files that are there, and a world around them
    with contextlib.suppress(TenantFileError):
        assert read_range(root, path, UID, offset=0, bytes_max=100) is None


def link_the_file(root: Path) -> None:
    path = root / "job" / "attempt" / "log.0"
    path.unlink()
    path.symlink_to(root.parent / "outside" / "log.0")


def link_the_folder(root: Path) -> None:
    (root / "job" / "attempt").rename(root / "job" / "was")
    (root / "job" / "attempt").symlink_to(root.parent / "outside")


def link_to_itself(root: Path) -> None:
    path = root / "job" / "attempt" / "log.0"
    path.unlink()
    path.symlink_to("log.0")


def make_a_pipe(root: Path) -> None:
    path = root / "job" / "attempt" / "log.0"
    path.unlink()
    os.mkfifo(path)


def make_a_folder(root: Path) -> None:
    path = root / "job" / "attempt" / "log.0"
    path.unlink()
    path.mkdir()


def make_a_socket(root: Path) -> None:
    path = root / "job" / "attempt" / "log.0"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    "trap",
    [link_the_file, link_the_folder, link_to_itself, make_a_pipe, make_a_folder, make_a_socket],
)
def test_traps_are_told_and_not_read(root: Path, trap: Callable[[Path], None]) -> None:
    trap(root)
    began = time.monotonic()
    for read in (
        lambda: read_range(root, "job/attempt/log.0", UID, offset=0, bytes_max=100),
        lambda: read_tail(root, "job/attempt/log.0", UID, bytes_max=100),
        lambda: size_of(root, "job/attempt/log.0", UID),
    ):
        with pytest.raises(TenantFileError) as told:
            read()
        assert SECRET.decode() not in str(told.value)
    assert time.monotonic() - began < 1


def test_a_hard_link_to_what_another_owns_is_not_read(root: Path) -> None:
    path = root / "job" / "attempt" / "log.1"
    os.link(root.parent / "outside" / "log.0", path)
    with pytest.raises(TenantFileError, match=r"belongs to user"):
        read_range(root, "job/attempt/log.1", UID + 1, offset=0, bytes_max=100)


def test_a_swap_while_it_is_read_shows_nothing_of_others(root: Path) -> None:
    """Somebody exchanges file and folder for links without pause."""
    inside, outside = root / "job" / "attempt", root.parent / "outside"
    is_over = threading.Event()

    def swap() -> None:
        name = 0
        while not is_over.is_set():
            name += 1
            parked = root / "job" / f"parked-{name}"
            inside.rename(parked)
            inside.symlink_to(outside)
            inside.unlink()
            parked.rename(inside)
            (inside / "draft").symlink_to(outside / "log.0")
            (inside / "draft").replace(inside / "log.0")
            (inside / "draft").write_bytes(b"0123456789")
            (inside / "draft").replace(inside / "log.0")

    thread = threading.Thread(target=swap)
    thread.start()
    seen: list[bytes | None] = []
    refused = 0
    try:
        ends_at = time.monotonic() + 0.5
        while time.monotonic() < ends_at:
            try:
                seen.append(read_range(root, "job/attempt/log.0", UID, offset=0, bytes_max=100))
            except TenantFileError:
                refused += 1
    finally:
        is_over.set()
        thread.join()
    assert set(seen) <= {None, b"0123456789", b""}
    assert b"0123456789" in seen
    assert refused


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    link_the_folder(root)
    for path in ("job/attempt/log.0", "job/was/log.0", "none", "../x"):
        with contextlib.suppress(TenantFileError):
            read_tail(root, path, UID, bytes_max=10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
