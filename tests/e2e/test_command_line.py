"""The command line against the running system: what works prints, what does not is one line."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.system import DEMO, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# Arguments -> a word that the one line must hold: the field, the name or what was expected.
BAD = {
    "unknown model": (["deployments", "create", "bad", "--model", "no-such"], "no-such"),
    "bad name": (["deployments", "create", "Bad_Name", "--model", DEMO], "name"),
    "name taken": (["deployments", "create", DEMO, "--model", DEMO], DEMO),
    "negative replicas": (["deployments", "scale", DEMO, "--replicas=-1"], "replicas"),
    "absurd replicas": (["deployments", "scale", DEMO, "--replicas", "100000"], "replicas"),
    "does not fit": (
        ["deployments", "create", "bad", "--model", DEMO, "--memory-bytes", str(5 * 10**12)],
        "memory",
    ),
    "no such deployment": (["deployments", "get", "no-such"], "no-such"),
    "no such file": (["models", "import", "bad", "/no/such.gguf"], "path"),
    "no model": (["models", "import", "bad", "/etc/hostname"], "GGUF"),
    "digest mismatch": (
        ["models", "import", "bad", "{weights}", "--digest", "sha256:" + "0" * 64],
        "digest",
    ),
}


def run(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``tramontane`` as a user of this installation does."""
    return subprocess.run(
        [sys.executable, "-m", "tramontane.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "TRAMONTANE_HOME": str(system.home), "HOME": "/nowhere"},
    )


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(system: System, case: str) -> None:
    arguments, word = BAD[case]
    weights = system.cloud("GET", f"/models/{DEMO}")["versions"][-1]["path"]
    before = system.pages("/deployments"), system.pages("/models")
    done = run(system, *(argument.format(weights=weights) for argument in arguments))
    assert done.returncode > 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("tramontane: error: ")
    assert word in line
    assert "Traceback" not in line
    assert (system.pages("/deployments"), system.pages("/models")) == before


def test_lists_are_tables_or_json(system: System) -> None:
    table = run(system, "deployments", "list")
    assert table.returncode == 0, table.stderr
    assert DEMO in table.stdout
    listed = run(system, "deployments", "list", "--json")
    assert [item["name"] for item in json.loads(listed.stdout)["data"]] == [DEMO]


def test_a_first_talk(system: System) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tramontane.main", "chat", DEMO],
        input="What is Tramontane?\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "TRAMONTANE_HOME": str(system.home)},
    )
    assert done.returncode == 0, done.stderr
    assert "Tramontane" in done.stdout  # sampled: true in more than one form
    assert len(done.stdout) > 60


def test_a_story_tells_a_replica_s_life(system: System) -> None:
    engine = system.processes("engine")[0]
    done = run(system, "story", str(engine.replica_id))
    assert done.returncode == 0, done.stderr
    for word in ("placed", "starting", "ready"):
        assert word in done.stdout
