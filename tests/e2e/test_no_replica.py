"""A deployment whose engine cannot start: it says why, and requests are told when to come back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.random_gguf import write_random_gguf
from tests.support.system import System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NAME = "broken"


@pytest.fixture
def broken(system: System, tmp_path: Path) -> Iterator[str]:
    """Deploy weights that read well and do not load: a tensor has a name that nobody knows."""
    path = write_random_gguf(tmp_path / "model.gguf")
    weights = path.read_bytes()
    assert weights.count(b"output_norm.weight") == 1
    path.write_bytes(weights.replace(b"output_norm.weight", b"output_nxrm.weight"))
    system.cloud("POST", "/models", json={"name": NAME, "path": str(path)})
    system.cloud("POST", "/deployments", json={"name": NAME, "model": NAME})
    yield NAME
    dead = system.cloud("DELETE", f"/deployments/{NAME}")
    until(
        lambda: not [p for p in system.processes() if p.replica_id and is_of(system, p, dead)],
        "the end of its processes",
    )
    system.cloud("DELETE", f"/models/{NAME}")


def is_of(system: System, process: object, deployment: dict[str, str]) -> bool:
    """Tell whether a process belongs to a replica of the deployment."""
    replica = system.cloud("GET", f"/replicas/{getattr(process, 'replica_id', '')}")
    return replica["deployment_id"] == deployment["id"]


def test_it_says_why_and_when(system: System, broken: str) -> None:
    failed = system.wait_for_deployment(
        broken, lambda d: "engine exited with status 1: " in (d["reason"] or ""), "failing"
    )
    assert failed["ready_replicas"] == 0
    replicas = system.pages("/replicas", deployment=failed["id"])
    assert {replica["status"] for replica in replicas} <= {"failed", "pending", "starting"}
    assert "output_norm.weight" in str(replicas)  # the engine's own words
    until(lambda: system.chat(model=broken).status_code == 503, "its route", 5)
    for is_stream in (False, True):
        reply = system.chat(model=broken, stream=is_stream)
        assert reply.status_code == 503, reply.text
        error = reply.json()["error"]
        assert error["code"] == "no_ready_replica"
        assert broken in error["message"]
        assert 1 <= int(reply.headers["retry-after"]) <= 600
    assert system.serves()  # others are not held up
    lines = system.cloud("GET", f"/deployments/{broken}/logs")
    assert "output_norm.weight" in str(lines)
