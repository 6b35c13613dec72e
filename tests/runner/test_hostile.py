"""What tenants choose, at its worst: paths of shipped files, and words that end in reports."""

import base64
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tramontane.runner.output import REASON_BYTES_MAX, plain
from tramontane.runner.work import lay_files
from tramontane.wire.runner_report import RunnerReportBody

PIECES = [
    "..",
    ".",
    "",
    "/",
    "a",
    "b",
    "link",
    "folder",
    "\0",
    "~",
    "$HOME",
    "\\",
    "é",
    "\ud800",
    "x" * 300,
]
CONTENT = base64.b64encode(b"shipped").decode()


@given(st.lists(st.sampled_from(PIECES), max_size=5).map("/".join))
def test_no_path_of_a_shipped_file_leads_out(path: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        job = Path(made)
        outside, work = job / "outside", job / "work"
        (outside / "folder").mkdir(parents=True)
        (work / "folder").mkdir(parents=True)
        (outside / "file").write_text("precious")
        (work / "link").symlink_to(outside)
        (work / "a").symlink_to(outside / "file")
        try:
            lay_files(str(work), [{"path": path, "content": CONTENT}])
        except (ValueError, OSError):
            assert not any(it.name.startswith(".tramontane") for it in job.rglob("*"))
        assert {it.name for it in job.iterdir()} == {"outside", "work"}
        assert sorted(it.name for it in outside.rglob("*")) == ["file", "folder"]
        assert (outside / "file").read_text() == "precious"


@given(st.text(max_size=50), st.sampled_from([b"", b"!", b"====", b"\xff"]))
def test_content_that_is_no_base64_is_refused(path: str, noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as made:
        content = "a" + noise.decode("latin-1")
        try:
            lay_files(made, [{"path": path, "content": content}])
        except (ValueError, OSError):
            assert list(Path(made).iterdir()) == []
        else:
            raise AssertionError("it was laid")


@given(st.text(st.characters(), max_size=200) | st.text("\x1b[]\x07\x00\r\n\t\ud800", max_size=50))
def test_whatever_a_reason_holds_it_can_be_told(text: str) -> None:
    for reason in (text, text * 200):
        told = plain(reason)
        assert told is not None
        assert len(told) <= REASON_BYTES_MAX
        RunnerReportBody.model_validate({"run_state": "exited", "at_ms": 1, "reason": told})


def test_plain_words_stay_as_they_are() -> None:
    assert plain("line one\n\tGrüße, 世界") == "line one\n\tGrüße, 世界"
    assert plain(None) is None
