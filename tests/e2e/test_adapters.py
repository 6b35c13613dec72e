"""LoRA adapters from their files to the bill: imported, deployed, called by name, changed."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.random_adapter import write_demo_adapter, write_random_adapter
from tests.support.system import DEMO, System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def answer(system: System, model: str) -> tuple[str, str]:
    """Return what ``model`` says to a greeting, and the request's id."""
    messages = [{"role": "user", "content": "Hello! Who are you?"}]
    reply = system.chat(model=model, messages=messages, max_tokens=16, temperature=0)
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == model
    return reply.json()["choices"][0]["message"]["content"], reply.headers["x-request-id"]


def import_adapter(system: System, name: str, path: Path, **more: Any) -> dict[str, Any]:
    body = {"name": name, "path": str(path), "licence": "Apache-2.0", "base": DEMO, **more}
    return system.cloud("POST", "/models", json=body)


def set_adapters(system: System, adapters: dict[str, str], **more: Any) -> Any:
    return system.cloud("PATCH", f"/deployments/{DEMO}", json={"adapters": adapters}, **more)


def wait_for_roll_out(system: System) -> None:
    system.wait_for_deployment(
        DEMO,
        lambda d: d["generation"] == d["observed_generation"] and d["status"] == "ready",
        "its new replicas",
    )


def test_an_adapter_is_called_by_its_name_and_its_use_is_counted_by_it(
    own_system: System, tmp_path: Path
) -> None:
    system = own_system
    until(system.serves, "its first answer")
    plain, _ = answer(system, DEMO)
    imported = import_adapter(system, "first-lora", write_demo_adapter(tmp_path / "1.gguf", 1))
    assert (imported["kind"], imported["adapter_rank"]) == ("adapter", 4)
    import_adapter(system, "second-lora", write_demo_adapter(tmp_path / "2.gguf", 2))

    set_adapters(system, {"two": "second-lora:1"})
    until(lambda: system.chat(model="two").status_code == 200, "the route to the adapter")
    second, _ = answer(system, "two")
    assert second != plain
    wait_for_roll_out(system)
    # Another one before it: the numbers in the engine change, what each name answers does not.
    set_adapters(system, {"one": "first-lora", "two": "second-lora"})
    until(lambda: system.chat(model="one").status_code == 200, "the route to the other one")
    assert answer(system, "two")[0] == second
    wait_for_roll_out(system)
    asked = {model: answer(system, model) for model in ("one", "two", DEMO)}
    assert asked[DEMO][0] == plain
    assert asked["two"][0] == second
    assert asked["one"][0] not in {plain, second}

    ids = {request_id: model for model, (_, request_id) in asked.items()}

    def counted() -> dict[str, str] | None:
        found = {e["request_id"]: e["model"] for e in system.usage_events()}
        return found if ids.keys() <= found.keys() else None

    events = until(counted, "the usage of all")
    assert {id_: events[id_] for id_ in ids} == ids

    in_use = system.cloud("DELETE", "/models/second-lora", status=409)
    assert in_use["error"]["code"] == "in_use"
    set_adapters(system, {})
    until(lambda: system.chat(model="two").status_code == 404, "the end of the route")
    assert answer(system, DEMO)[0] == plain


def test_what_does_not_fit_is_refused_by_name(own_system: System, tmp_path: Path) -> None:
    system = own_system
    other = write_random_adapter(tmp_path / "other.gguf", 1)
    body = {"name": "other", "path": str(other), "licence": "mit", "base": DEMO}
    refused = system.cloud("POST", "/models", json=body, status=400)["error"]
    assert refused["param"] == "base"
    assert "64 x 64" in refused["message"]
    del body["base"]
    refused = system.cloud("POST", "/models", json=body, status=400)["error"]
    assert (refused["code"], refused["param"]) == ("missing_required_parameter", "base")
    refused = set_adapters(system, {"three": DEMO}, status=400)["error"]
    assert refused["param"] == "adapters"
    assert "a model, no adapter" in refused["message"]
    fitting = write_demo_adapter(tmp_path / "3.gguf", 3)
    import_adapter(system, "third-lora", fitting)
    refused = set_adapters(system, {DEMO: "third-lora"}, status=409)["error"]
    assert refused["code"] == "name_taken"
    body = {"name": "alone", "model": "third-lora"}
    refused = system.cloud("POST", "/deployments", json=body, status=400)["error"]
    assert "adapter" in refused["message"]
