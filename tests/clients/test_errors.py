"""Every client raises the error that its users catch, with what they need to know in it."""

from collections.abc import Callable

import pytest

from tests.clients.conftest import Results
from tests.support.client_envs import CLIENTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OPENAI = [name for name in CLIENTS if name.startswith("openai")]
MISTRAL = [name for name in CLIENTS if name.startswith("mistralai")]

openai_clients = pytest.mark.parametrize("client", OPENAI)
mistral_clients = pytest.mark.parametrize("client", MISTRAL)

ResultsOf = Callable[[str], Results]

WRONG_KEY = ["wrong key", "wrong key stream", "wrong key models", "async wrong key"]
NO_MODEL = ["no such model", "no such model stream", "no such model retrieve"]
NO_MODEL += ["async no such model"]
NO_REPLICA = ["no replica", "no replica stream", "async no replica"]
LIMITED = ["limited", "limited stream", "async limited"]
NO_MESSAGES = ["no messages", "no messages stream", "async no messages"]


@openai_clients
@pytest.mark.parametrize("step", WRONG_KEY)
def test_openai_wrong_key(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "AuthenticationError", seen
    assert seen["status"] == 401
    assert seen["code"] == "invalid_api_key"
    assert seen["error_type"] == "invalid_request_error"
    assert seen["www-authenticate"] == "Bearer"
    assert seen["request_id"]
    assert "tmt_wrong" not in seen["message"]


@openai_clients
@pytest.mark.parametrize("step", [*NO_MODEL, "no such model completion"])
def test_openai_unknown_model(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "NotFoundError", seen
    assert seen["status"] == 404
    assert seen["code"] == "model_not_found"
    assert seen["param"] == "model"
    assert "no-such-model" in seen["message"]
    assert seen["request_id"]


@openai_clients
@pytest.mark.parametrize("step", ["bad type", *NO_MESSAGES])
def test_openai_bad_request(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "BadRequestError", seen
    assert seen["status"] == 400
    assert seen["error_type"] == "invalid_request_error"
    field = "temperature" if step == "bad type" else "messages"
    assert field in seen["message"]
    assert seen["param"] == field
    assert isinstance(seen["code"], str)


@openai_clients
@pytest.mark.parametrize("step", NO_REPLICA)
def test_openai_no_replica(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "InternalServerError", seen
    assert seen["status"] == 503
    assert seen["code"]
    assert "resting" in seen["message"]
    assert seen["retry-after"] is None  # nothing is starting that one could wait for


@openai_clients
@pytest.mark.parametrize("step", LIMITED)
def test_openai_limit(client: str, step: str, limited_results_of: ResultsOf) -> None:
    seen = limited_results_of(client)[step]
    assert seen["raised"] == "RateLimitError", seen
    assert seen["status"] == 429
    assert seen["code"] == "rate_limit_exceeded"
    assert seen["error_type"] == "requests"
    assert "in flight" in seen["message"]
    assert int(seen["retry-after"]) > 0


@mistral_clients
@pytest.mark.parametrize("step", LIMITED)
def test_mistral_limit(client: str, step: str, limited_results_of: ResultsOf) -> None:
    seen = limited_results_of(client)[step]
    assert seen["raised"] == "SDKError", seen
    assert seen["status"] == 429
    assert "rate_limit_exceeded" in seen["body"]
    assert int(seen["retry-after"]) > 0


@mistral_clients
@pytest.mark.parametrize("step", WRONG_KEY)
def test_mistral_wrong_key(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "SDKError", seen
    assert seen["status"] == 401
    assert "invalid_api_key" in seen["body"]
    assert "tmt_wrong" not in seen["body"]


@mistral_clients
@pytest.mark.parametrize("step", NO_MODEL)
def test_mistral_unknown_model(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "SDKError", seen
    assert seen["status"] == 404
    assert "no-such-model" in seen["body"]


@mistral_clients
@pytest.mark.parametrize("step", NO_MESSAGES)
def test_mistral_bad_request(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "HTTPValidationError", seen
    assert seen["status"] == 422
    (detail,) = seen["detail"]
    assert "messages" in detail["loc"]
    assert detail["msg"]


@mistral_clients
@pytest.mark.parametrize("step", NO_REPLICA)
def test_mistral_no_replica(client: str, step: str, results_of: ResultsOf) -> None:
    seen = results_of(client)[step]
    assert seen["raised"] == "SDKError", seen
    assert seen["status"] == 503
    assert "resting" in seen["body"]
    assert seen["retry-after"] is None  # nothing is starting that one could wait for
