"""The error table against what the official clients depend on (wire reference 2.2)."""

import pytest

from tramontane.domain.refusal import Code, Refusal
from tramontane.wire import errors
from tramontane.wire.dialect import Dialect, dialect_of


def test_every_code_has_a_status():
    assert set(errors.STATUS) == set(Code)
    assert all(400 <= status < 600 for status, _ in errors.STATUS.values())


def test_the_body_is_the_union_of_both_dialects():
    found = errors.body(Code.MODEL_NOT_FOUND, "no such model", param="model")
    assert found == {
        "object": "error",
        "message": "no such model",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        },
    }


@pytest.mark.parametrize(
    "code", [Code.INVALID_JSON, Code.INVALID_VALUE, Code.MISSING_REQUIRED_PARAMETER]
)
def test_validation_is_400_for_openai_and_422_with_a_detail_list_for_mistral(code: Code):
    assert errors.status_of(code) == 400
    assert "detail" not in errors.body(code, "m", param="model")
    assert errors.status_of(code, Dialect.MISTRAL) == 422
    detail = errors.body(code, "m", param="messages[2].role", dialect=Dialect.MISTRAL)["detail"]
    assert [set(entry) for entry in detail] == [{"type", "loc", "msg", "input"}]
    assert detail[0]["loc"] == ["body", "messages", 2, "role"]


def test_other_codes_keep_their_status_in_both_dialects():
    for code in (Code.CONTEXT_LENGTH_EXCEEDED, Code.MODEL_NOT_FOUND, Code.NO_READY_REPLICA):
        assert errors.status_of(code) == errors.status_of(code, Dialect.MISTRAL)
        assert "detail" not in errors.body(code, "m", dialect=Dialect.MISTRAL)


def test_headers_tell_scheme_wait_and_no_retry():
    assert errors.headers_of(Code.INVALID_API_KEY) == {"www-authenticate": "Bearer"}
    assert errors.headers_of(Code.IN_USE) == {"x-should-retry": "false"}
    assert errors.headers_of(Code.NO_READY_REPLICA, retry_after_s=1.25) == {
        "retry-after": "2",
        "retry-after-ms": "1250",
    }
    assert errors.headers_of(Code.NOT_FOUND) == {}


def test_both_rate_limits_have_one_code_and_a_budget_forbids_another_try():
    requests = errors.body(Code.RATE_LIMIT_EXCEEDED, "m")
    tokens = errors.body(Code.TOKEN_LIMIT_EXCEEDED, "m")
    assert requests["code"] == tokens["error"]["code"] == "rate_limit_exceeded"
    assert (requests["type"], tokens["type"]) == ("requests", "tokens")
    assert errors.headers_of(Code.TOKEN_LIMIT_EXCEEDED, retry_after_s=0.25) == {
        "retry-after": "1",
        "retry-after-ms": "250",
    }
    assert errors.headers_of(Code.INSUFFICIENT_QUOTA) == {"x-should-retry": "false"}


def test_a_refusal_becomes_a_body():
    refusal = Refusal(Code.NAME_TAKEN, "name taken", "name")
    assert errors.body_of(refusal) == errors.body(Code.NAME_TAKEN, "name taken", param="name")


@pytest.mark.parametrize(
    ("path", "agent", "expected"),
    [
        ("/v1/models", None, Dialect.OPENAI),
        ("/v1/models", "OpenAI/Python 3.54.0", Dialect.OPENAI),
        ("/v1/models", "mistral-client-python/3.7.0", Dialect.MISTRAL),
        ("/mistral/v1/models", "OpenAI/Python 3.54.0", Dialect.MISTRAL),
        ("/openai/v1/models", "mistral-client-python/3.7.0", Dialect.OPENAI),
        ("/mistral/v1", None, Dialect.MISTRAL),
        ("/mistral/v1x", None, Dialect.OPENAI),
    ],
)
def test_the_dialect_goes_by_mount_then_agent_then_openai(
    path: str, agent: str | None, expected: Dialect
):
    assert dialect_of(path, agent) is expected
