"""Removing where a tenant writes: all of it, nothing else, and never for ever."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tramontane.runtime.tenant_trees import remove_piece, remove_tree

DEPTH = 1_100  # deeper than Python's stack, and than there may be open files


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "run" / "a" / "b").mkdir(parents=True)
    (tmp_path / "run" / "a" / "b" / "file").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield folder
    os.close(folder)


def test_all_kinds_of_things_go_and_what_links_lead_to_stays(root: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "link").symlink_to(tmp_path / "outside")
    (run / "a" / "link").symlink_to(tmp_path / "outside")
    (run / "a" / "hard").hardlink_to(tmp_path / "outside" / "kept")
    os.mkfifo(run / "pipe")
    remove_tree(root, "run")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside" / "kept").read_text() == "kept"
    remove_tree(root, "run")  # what is gone is gone


def test_a_link_in_place_of_the_folder_is_removed_itself(root: int, tmp_path: Path) -> None:
    (tmp_path / "swapped").symlink_to(tmp_path / "outside")
    remove_tree(root, "swapped")
    assert not (tmp_path / "swapped").is_symlink()
    assert (tmp_path / "outside" / "kept").exists()
    (tmp_path / "swapped").touch()
    remove_tree(root, "swapped")
    os.mkfifo(tmp_path / "swapped")
    remove_tree(root, "swapped")
    assert not (tmp_path / "swapped").exists()


@pytest.mark.slow
def test_a_tree_of_any_depth_is_removed(root: int, tmp_path: Path) -> None:
    here = os.open(tmp_path / "run", os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(root, "run", entries_max=10_000)
    assert not (tmp_path / "run").exists()


def test_a_large_tree_is_removed_piece_by_piece(root: int, tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / "run" / f"file{number}").touch()
    for _ in range(5):
        with pytest.raises(BlockingIOError):  # EAGAIN
            remove_tree(root, "run", entries_max=10)
    remove_tree(root, "run", entries_max=10)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["run", "run/a", "run/a/b"])
def test_what_may_be_removed_at_once_is_counted_wherever_it_lies(
    root: int, tmp_path: Path, folder: str
) -> None:
    for number in range(7):
        (tmp_path / folder / f"file{number}").touch()
    with pytest.raises(BlockingIOError):
        remove_tree(root, "run", entries_max=3)
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(left) >= 8 - 3
    pieces = 1
    while not remove_piece(root, "run", entries_max=3):
        pieces += 1
        assert pieces < 20
    assert pieces >= 2
    assert not (tmp_path / "run").exists()


def test_as_much_as_there_is_may_be_removed_at_once(root: int, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for count, fits in ((4, True), (5, False)):
        flat.mkdir()
        for number in range(count):
            (flat / f"file{number}").touch()
        assert remove_piece(root, "flat", entries_max=4) is fits
        assert flat.exists() is not fits
    assert remove_piece(root, "none")


def test_no_descriptor_is_left_open(root: int, tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    (tmp_path / "run" / "c").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(BlockingIOError):
        remove_tree(root, "run", entries_max=2)
    for name in ("run", "link", "none"):
        remove_tree(root, name)
    assert count() == before


def test_names_swapped_meanwhile_neither_lead_out_nor_hold_it(root: int, tmp_path: Path) -> None:
    """A folder turns into a link, a pipe and back while it is removed, as fast as that goes."""
    run, is_over = tmp_path / "run", threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            try:
                (run / "x").mkdir()
                (run / "x").rmdir()
                (run / "x").symlink_to(tmp_path / "outside")
                (run / "x").unlink()
                os.mkfifo(run / "x")
                (run / "x").unlink()
            except OSError:
                continue

    swapping = threading.Thread(target=swap)
    swapping.start()
    done: list[int] = []

    def remove() -> None:
        for _ in range(300):
            run.mkdir(exist_ok=True)
            try:
                remove_tree(root, "run")
            except OSError:
                continue
        done.append(1)

    removing = threading.Thread(target=remove, daemon=True)
    removing.start()
    removing.join(20)
    is_over.set()
    swapping.join()
    assert done, "it hangs at a pipe"
    assert (tmp_path / "outside" / "kept").read_text() == "kept"
