"""Schemathesis over both OpenAPI documents: no 5xx, and no reply that its schema forbids."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support import client_envs
from tests.support.system import DEMO, System, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_SECONDS: Final = 15  # for each document
_CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
# A key that blocks itself, or what it belongs to, would end the run as a row of 401.
_LOCKS_ITSELF_OUT: Final = r"(/block|/unblock|/api-keys/\{)"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Start a system of its own: what is asked here leaves its traces."""
    with running(tmp_path_factory.mktemp("schemathesis") / "home") as running_system:
        yield running_system


def run(python: Path, document: Path, url: str, key: str, *options: str) -> str:
    program = [str(python.with_name("st")), "run", str(document), "-u", url, "-n", "20"]
    program += ["-H", f"Authorization: Bearer {key}", "-c", ",".join(_CHECKS), "--seed", "1"]
    program += ["--phases", "coverage,fuzzing", "--max-time", str(_SECONDS), "--no-color"]
    done = subprocess.run(
        [*program, "--request-timeout", "30", *options],
        cwd=document.parent,  # it keeps a folder of its own
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    return done.stdout


def limited_to_the_demo(document: dict[str, Any]) -> dict[str, Any]:
    """Ask for the model that is there, and for few tokens: so that the engine is reached."""
    for name, schema in document["components"]["schemas"].items():
        fields = schema.get("properties", {})
        if not name.endswith("Form") or "model" not in fields:
            continue
        fields["model"] = {"enum": [DEMO]}
        for field in {"max_tokens", "max_completion_tokens", "n_predict"} & fields.keys():
            fields[field] = {"type": "integer", "minimum": 1, "maximum": 4}
        if "max_tokens" in fields:
            schema["required"] = sorted({*schema.get("required", []), "max_tokens"})
    return document


def test_the_inference_api_keeps_to_its_document(
    system: System, environments: dict[str, client_envs.ClientEnvironment], tmp_path: Path
) -> None:
    found = httpx.get(f"{system.base_url}/openapi.json", trust_env=False)
    assert found.status_code == 200, found.text
    path = tmp_path / "inference.json"
    path.write_text(json.dumps(limited_to_the_demo(found.json())))
    url = system.base_url.removesuffix("/v1")
    told = run(environments["schemathesis"].python, path, url, system.api_key)
    assert "Tested: 6" in told, told[-2_000:]


def test_the_management_api_keeps_to_its_document(
    system: System, environments: dict[str, client_envs.ClientEnvironment], tmp_path: Path
) -> None:
    url = system.base_url.removesuffix("/v1")
    found = httpx.get(f"{url}/cloud/v1/openapi.json", trust_env=False)
    path = tmp_path / "cloud.json"
    path.write_text(found.text)
    options = ("--exclude-path-regex", _LOCKS_ITSELF_OUT)
    run(environments["schemathesis"].python, path, url, system.credentials["admin_key"], *options)
    # The key is still good: what was asked was asked with its rights.
    assert system.cloud("GET", "/projects")["data"]
