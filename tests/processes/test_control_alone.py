"""``tramontane control`` by itself: it begins an installation, and never two on one database."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.system import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def command(home: Path, database: Path, port: int) -> list[str]:
    options = ["--home", str(home), "--port", str(port), "--database-url", f"sqlite:///{database}"]
    return [sys.executable, "-m", "tramontane.main", "control", *options]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "TRAMONTANE" not in name}
    return kept | {"TRAMONTANE_DEMO": "false"}


@contextlib.contextmanager
def control(home: Path, database: Path) -> Iterator[int]:
    """Run a control plane until the block ends; gives its port."""
    port = free_port()
    with subprocess.Popen(
        command(home, database, port), env=environment(), cwd=home.parent
    ) as running:
        try:
            until(lambda: answers(port), "an answer", 30)
            yield port
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(30) == 0


def answers(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/cloud/v1/whoami").status_code == 401
    return False


def test_it_begins_an_installation_and_goes_on_with_it(tmp_path: Path) -> None:
    home, database = tmp_path / "home", tmp_path / "db.sqlite"
    with control(home, database):
        key = json.loads((home / "credentials.json").read_text())["admin_key"]
    assert (home / "secrets.json").stat().st_mode & 0o777 == 0o600
    with control(home, database) as port:
        headers = {"authorization": f"Bearer {key}"}
        reply = httpx.get(f"http://127.0.0.1:{port}/cloud/v1/whoami", headers=headers)
        assert reply.status_code == 200, reply.text


def test_a_second_home_on_the_same_database_needs_the_firsts_secrets(tmp_path: Path) -> None:
    first, second, database = tmp_path / "first", tmp_path / "second", tmp_path / "db.sqlite"
    with control(first, database):
        pass
    done = subprocess.run(
        command(second, database, free_port()),
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 78
    assert "copy that file from the home of the installation's first" in done.stderr
    assert not (second / "secrets.json").exists()
    (second / "secrets.json").write_bytes((first / "secrets.json").read_bytes())
    with control(second, database):
        pass
