"""The command line against a real control plane with a real engine: every noun, start to end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import CommandLine, Run, python_environment
from tests.support.random_gguf import write_random_gguf
from tests.support.system import System, free_port
from tests.support.waiting import until
from tramontane.runtime.home import Home

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The home of a running control plane without a gateway and without the demo."""
    folder, port = tmp_path / "home", str(free_port())
    opened = Home(folder)
    opened.open()
    opened.close()
    command = [sys.executable, "-m", "tramontane.main", "control", "--home", str(folder)]
    settings = {"TRAMONTANE_DEMO": "false", "TRAMONTANE_PORT": port}
    with (tmp_path / "control.out").open("wb") as out:
        process = subprocess.Popen(
            command, env=python_environment() | settings, stdout=out, stderr=out
        )
        try:
            until(opened.credentials_path.exists, "credentials")
            yield folder
        finally:
            process.terminate()
            process.wait(timeout=30)
            for left in System(folder).processes():  # engines outlive a control plane
                left.kill()


@pytest.fixture
def run(command_line: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("TRAMONTANE_HOME", str(home))
    return command_line


def done(run: Run) -> str:
    assert run.code == 0, run.err
    return run.out


def read(run: Run) -> dict[str, object]:
    value = json.loads(done(run))
    assert isinstance(value, dict)
    return value


def test_the_life_of_a_deployment(run: CommandLine, tmp_path: Path) -> None:
    until(lambda: run("nodes", "list").out.count("\n") == 2, "this machine as a node")
    assert "operator" in done(run("whoami"))
    assert done(run("deployments", "list")).startswith("no deployments yet")

    write_random_gguf(tmp_path / "random.gguf")
    wrong = "sha256:" + "0" * 64
    refused = run("models", "import", "tiny", "random.gguf", "--digest", wrong)
    assert (refused.code, refused.err.count("\n"), wrong in refused.err) == (1, 1, True)
    refused = run("models", "import", "tiny", "missing.gguf")
    assert (refused.code, "missing.gguf" in refused.err) == (1, True)
    done(run("models", "import", "tiny", "random.gguf", "--licence", "MIT"))
    assert "gguf    llama" in done(run("models", "list"))

    create = ["deployments", "create", "chat", "--model", "tiny", "--context-length", "128"]
    created = read(run(*create, "--wait", "--timeout", "120", "--json"))
    assert (created["status"], created["ready_replicas"]) == ("ready", 1)
    assert run(*create).code == 5
    assert run("models", "delete", "tiny", "--yes").code == 5

    scaled = run("deployments", "scale", "chat", "2", "--wait", "--json")
    assert read(scaled)["ready_replicas"] == 2
    assert scaled.err.startswith("chat: ")
    updated = run("deployments", "update", "chat", "--parallel", "2", "--wait", "--json")
    assert read(updated)["observed_generation"] == 2
    assert "serving chat at" in done(run("deployments", "logs", "chat"))
    assert "deployment.scaled" in done(run("deployments", "events", "chat"))
    replicas = read(run("replicas", "list", "--deployment", "chat", "--json"))["data"]
    assert isinstance(replicas, list)
    story = done(run("story", str(replicas[0]["id"])))
    assert "replica.ready" in story
    assert done(run("replicas", "get", str(replicas[0]["id"]))).startswith("id")

    deleted = run("deployments", "delete", "chat", "--wait", "--timeout", "60", "--json")
    assert read(deleted)["status"] == "stopped"
    assert run("deployments", "get", "chat").code == 3
    done(run("models", "delete", "tiny"))
    assert done(run("usage", "totals")).startswith("nothing was used")
    assert done(run("usage", "events")).startswith("no usage events")


def test_tenants_and_keys(run: CommandLine) -> None:
    done(run("organizations", "create", "acme"))
    taken = run("organizations", "create", "acme")
    assert (taken.code, taken.err.count("\n")) == (5, 1)
    assert run("organizations", "create", "A_B").code == 1
    done(run("projects", "create", "web", "--organization", "acme"))
    assert "web" in done(run("projects", "list", "--organization", "acme"))
    assert "acme" in done(run("organizations", "get", "acme"))

    key = read(run("api-keys", "create", "ci", "--project", "web", "--json"))
    text, key_id = str(key["key"]), str(key["id"])
    assert text not in done(run("api-keys", "list", "--project", "web"))
    who = read(run("whoami", "--json", "--api-key", text))
    assert (who["key_id"], who["role"]) == (key_id, "member")
    assert run("organizations", "create", "mine", "--api-key", text).code in {3, 4}
    assert run("deployments", "create", "d", "--model", "none", "--api-key", text).code == 3
    assert "ci" in done(run("api-keys", "get", key_id))
    done(run("api-keys", "revoke", key_id, "--yes"))
    refused = run("whoami", "--api-key", text)
    assert (refused.code, text in refused.err) == (4, False)
    done(run("projects", "archive", "web", "--yes"))
    assert "ready" in done(run("clusters", "list"))
