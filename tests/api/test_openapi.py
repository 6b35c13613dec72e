"""The OpenAPI document: committed, complete, and free of what is not for clients."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud import Cloud
from tests.support.golden import assert_golden
from tramontane.api.access import Requires
from tramontane.api.app import permissions_of
from tramontane.wire import cloud_jobs, cloud_quotas, cloud_requests, cloud_spending

ROOMS = (cloud_requests, cloud_spending, cloud_jobs, cloud_quotas)
GOLDEN = Path(__file__).parents[1] / "golden" / "openapi.json"


@pytest.fixture(scope="module")
def document(shared_cloud: Cloud) -> dict[str, Any]:
    return shared_cloud.call("GET", "/cloud/v1/openapi.json", key="").json()


def test_golden(document: dict[str, Any]) -> None:
    assert_golden(GOLDEN, json.dumps(document, indent=1, sort_keys=True) + "\n")


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_is_described(shared_cloud: Cloud, document: dict[str, Any]) -> None:
    marks = permissions_of(shared_cloud.app)
    described = operations(document)
    assert set(described) == {route for route, mark in marks.items() if isinstance(mark, Requires)}
    names = [tag["name"] for tag in document["tags"]]
    for route, operation in described.items():
        mark = marks[route]
        assert isinstance(mark, Requires)
        assert operation["x-permission"] == mark.permission
        assert operation["security"] == [{"apiKey": []}]
        assert operation["description"]
        assert operation["tags"][0] in names
        noun = operation["tags"][0].replace("-", "_")
        assert operation["operationId"].startswith(f"{noun}_")
        assert {"4XX", "5XX"} < set(operation["responses"])
        assert "422" not in operation["responses"]
    ids = [operation["operationId"] for operation in described.values()]
    assert len(set(ids)) == len(ids)


def test_every_field_of_a_request_is_described_and_bounded(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    bodies = [
        name for name in schemas if name.startswith(("Create", "Import", "Patch", "Scale", "Set"))
    ]
    assert len(bodies) == 19
    for name in bodies:
        assert schemas[name]["additionalProperties"] is False
        for example in schemas[name]["examples"]:
            form = next(getattr(room, name) for room in ROOMS if hasattr(room, name))
            form.model_validate(example)
        for field, schema in schemas[name]["properties"].items():
            assert schema.get("description"), f"{name}.{field}"
            forms = schema.get("anyOf", [schema])
            for form in forms:
                if "$ref" in form:
                    assert form["$ref"].rpartition("/")[2] in bodies
                    continue
                bounded = {"enum", "maximum", "maxLength", "maxProperties", "maxItems"} & set(form)
                assert bounded or form["type"] in {"null", "boolean"}, f"{name}.{field}"


def test_no_third_party_is_named(document: dict[str, Any]) -> None:
    assert "http" not in json.dumps(document).replace("HTTP", "").replace('"http"', "")


def test_every_refusal_is_json(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, reply in operation["responses"].items():
                if not status.startswith("2"):
                    assert list(reply["content"]) == ["application/json"], (method, path, status)
    logs = document["paths"]["/cloud/v1/jobs/{job}/logs"]["get"]["responses"]
    assert list(logs["200"]["content"]) == ["text/plain"]
