"""Log records: JSON that any reader takes, and nothing in them that looks like a secret."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tramontane.domain import tenancy
from tramontane.runtime import logs

KEY = tenancy.make_key(bytes(range(24)))


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, whose handlers a test replaces and gets back."""
    logger = logging.getLogger()
    before, level = list(logger.handlers), logger.level
    for handler in before:
        logger.removeHandler(handler)  # so that `configure` does not close them
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for handler in before:
        logger.addHandler(handler)
    logger.setLevel(level)


def test_json_records_are_one_object_a_line(tmp_path: Path, root: logging.Logger) -> None:
    path = tmp_path / "log"
    logs.configure("info", path, form="json", process="gateway")
    logging.getLogger("tramontane.x").warning('two\nlines, "quotes" and %s', "\u2028")
    logging.getLogger("tramontane.x").debug("not wanted")
    try:
        raise ValueError(KEY)
    except ValueError:
        logging.getLogger("tramontane.y").exception("a bug with %s", KEY)
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert first["message"] == 'two\nlines, "quotes" and \u2028'
    assert (first["level"], first["logger"], first["process"]) == (
        "warning",
        "tramontane.x",
        "gateway",
    )
    assert first["time"].endswith("Z")
    assert "Traceback" in second["exception"]
    assert KEY not in json.dumps(second)


@pytest.mark.parametrize("form", logs.FORMATS)
@pytest.mark.parametrize(
    "secret",
    [KEY, f"Authorization: Bearer {KEY}", "bearer abc.def", "postgresql://user:hush@host/name"],
)
def test_what_looks_like_a_secret_is_blotted_out(
    form: str, secret: str, tmp_path: Path, root: logging.Logger
) -> None:
    path = tmp_path / "log"
    logs.configure("info", path, form=form)
    logging.getLogger("x").error("it failed with %s here", secret)
    text = path.read_text()
    assert "it failed with" in text
    assert " here" in text
    assert "***" in text
    assert not any(part in text for part in (KEY, "abc.def", "hush"))
