"""The official clients' ``responses``: every release that has them, against the running system."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import client_envs
from tests.support.system import DEMO, System
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OPENAI = ("openai-1", "openai-2", "openai-3")
openai_clients = pytest.mark.parametrize("client", OPENAI)
ResultsOf = Callable[[str], dict[str, Any]]
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


@pytest.fixture(scope="module")
def storing(system: System) -> Iterator[System]:
    """The system, while its first organization allows responses to be stored."""
    (organization,) = system.cloud("GET", "/organizations")["data"]
    path = f"/organizations/{organization['id']}"
    system.cloud("PATCH", path, json={"may_store_responses": True})
    until(lambda: create(system)["store"], "the gateways' new table")
    yield system
    system.cloud("PATCH", path, json={"may_store_responses": False})


@pytest.fixture(scope="module")
def results_of(
    storing: System, environments: dict[str, client_envs.ClientEnvironment]
) -> ResultsOf:
    """Return a function that runs a client's scenario once."""

    @cache
    def run(client: str) -> dict[str, Any]:
        options = ["--base-url", storing.base_url, "--api-key", storing.api_key, "--model", DEMO]
        family = "openai" if client.startswith("openai") else "mistral"
        script = Path(__file__).with_name(f"scenario_responses_{family}.py")
        return json.loads(environments[client].run(script, *options, timeout_s=120))

    return run


def create(system: System, **fields: Any) -> dict[str, Any]:
    body = {"model": DEMO, "input": "Hello", "max_output_tokens": 5} | fields
    headers = {"authorization": f"Bearer {system.api_key}"}
    url = f"{system.base_url}/responses"
    return httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False).json()


def distinct(types: list[str]) -> list[str]:
    return list(dict.fromkeys(types))


@openai_clients
def test_the_answer_is_true_whole_and_streamed(client: str, results_of: ResultsOf) -> None:
    results = results_of(client)
    whole, streamed, helped = (results[name] for name in ("whole", "streamed", "helped"))
    assert "sovereign AI cloud" in whole.get("text", ""), whole
    assert whole["status"] == "completed"
    assert whole["model"] == DEMO
    assert whole["store"] is True
    assert streamed.get("text") == streamed["deltas"] == whole["text"], streamed
    assert helped.get("text") == helped["snapshot"] == whole["text"], helped
    assert distinct(streamed["events"]) == TEXT_EVENTS
    assert len(streamed["events"]) > 20
    assert whole["usage"] == streamed["usage"]
    assert whole["usage"][0] + whole["usage"][1] == whole["usage"][2]
    assert whole["reasoning"] == 0


@openai_clients
def test_usage_is_what_was_metered(client: str, results_of: ResultsOf, storing: System) -> None:
    whole = results_of(client)["whole"]

    def found() -> dict[str, Any] | None:
        events = storing.usage_events()
        return next((e for e in events if e["request_id"] == whole["request_id"]), None)

    event = until(found, "the usage event", 20)
    assert [event["prompt_tokens"], event["completion_tokens"]] == whole["usage"][:2]
    assert event["endpoint"] == "responses"


@openai_clients
def test_structured_output(client: str, results_of: ResultsOf) -> None:
    for name in ("parsed", "helped parse"):
        assert results_of(client)[name].get("parsed") == {"name": "Ada", "age": 36}, name


@openai_clients
def test_a_tool_is_called_and_answered(client: str, results_of: ResultsOf) -> None:
    talked = results_of(client)["talked"]
    assert talked.get("name") == "get_weather", talked
    assert list(talked["arguments"]) == ["city"]
    assert talked["second"]["previous"] == talked["first"]["id"]
    assert talked["second"]["text"] == talked["by hand"]["text"]
    assert talked["second"]["usage"][0] == talked["by hand"]["usage"][0]
    helped = results_of(client)["helped tool"]
    assert helped.get("types") == ["function_call"], helped
    assert helped["arguments"] == [helped["snapshot"]]
    assert list(json.loads(helped["snapshot"])) == ["city"]


@openai_clients
def test_a_cut_answer_is_incomplete(client: str, results_of: ResultsOf) -> None:
    short = results_of(client)["short"]
    assert (short.get("status"), short["details"]) == ("incomplete", "max_output_tokens")
    assert short["usage"][1] == 3


@openai_clients
def test_it_is_stored_read_listed_and_deleted(client: str, results_of: ResultsOf) -> None:
    kept = results_of(client)["kept"]
    assert "made" in kept, kept
    same = ("id", "status", "text", "usage")
    assert {name: kept["read"][name] for name in same} == {n: kept["made"][n] for n in same}
    assert kept["metadata"] == {"a": "b"}
    assert kept["items"] == ["Hello", "What is Tramontane?"]
    assert kept["gone"]["status"] == 404


@openai_clients
def test_in_the_background(client: str, results_of: ResultsOf) -> None:
    background = results_of(client)["background"]
    assert background.get("first", {}).get("status") == "queued", background
    assert background["last"]["status"] == "completed"
    assert "sovereign AI cloud" in background["last"]["text"]
    cancelled = results_of(client)["cancelled"]
    assert cancelled.get("cancelled", {}).get("status") == "cancelled", cancelled
    assert cancelled["after"]["status"] == "cancelled"


@openai_clients
def test_refusals(client: str, results_of: ResultsOf) -> None:
    results = results_of(client)
    assert results["no such model"]["raised"] == "NotFoundError"
    assert results["no such response"]["raised"] == "NotFoundError"
    assert (results["no input"]["status"], results["no input"]["param"]) == (400, "input")
    assert results["web search"]["param"] == "tools[0].type"


@openai_clients
def test_tokens_are_counted_as_they_are_used(client: str, results_of: ResultsOf) -> None:
    counted = results_of(client).get("counted")
    assert (counted is None) is (client == "openai-1")
    if counted is not None:
        assert counted.get("counted") == counted["used"], counted


def test_mistrals_client(results_of: ResultsOf) -> None:
    results = results_of("mistralai-3")
    whole, streamed = results["whole"], results["streamed"]
    assert "sovereign AI cloud" in whole.get("text", ""), whole
    assert streamed.get("text") == streamed["deltas"] == whole["text"], streamed
    assert distinct(streamed["events"]) == TEXT_EVENTS
    assert whole["usage"] == streamed["usage"]
    assert whole["written"] == 0
    assert results["tool"].get("types") == ["function_call"], results["tool"]
    assert results["tool streamed"].get("calls") == results["tool"]["calls"]
    assert results["counted"] > 5
    assert results["no such model"]["status"] == 404


def test_another_projects_key_sees_nothing(storing: System) -> None:
    response = create(storing)
    storing.cloud("POST", "/projects", json={"name": "strangers"})
    made = storing.cloud("POST", "/api-keys", json={"name": "stranger", "project": "strangers"})
    url = f"{storing.base_url}/responses/{response['id']}"
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
    ):
        headers = {"authorization": f"Bearer {made['key']}"}
        reply = httpx.request(method, url + path, headers=headers, timeout=30, trust_env=False)
        assert reply.status_code == 404, (method, path)
    headers = {"authorization": f"Bearer {storing.api_key}"}
    assert httpx.get(url, headers=headers, timeout=30, trust_env=False).status_code == 200
