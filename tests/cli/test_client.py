"""The client of the management API: what it sends, repeats, and makes of odd answers."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cli import Reply, Request, Stub, chunks, error, listing
from tramontane.wire.client import (
    REPLY_BYTES_MAX,
    ApiError,
    BadReplyError,
    CloudClient,
    UnreachableError,
    UnusableError,
    segment,
)

Serve = Callable[[Any], Stub]
NOBODY = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there


class Naps:
    """Remembers how long a client would have slept."""

    def __init__(self) -> None:
        self.taken_s: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.taken_s.append(seconds)


def client_of(stub: Stub, naps: Naps | None = None) -> CloudClient:
    return CloudClient(stub.base_url, "tmt_key", 5.0, sleep=naps or Naps())


@pytest.mark.parametrize(
    "base_url",
    ["http://h:1/v1", "http://h:1/v1/", "http://h:1", "http://h:1/", "http://h:1/openai/v1"],
)
def test_the_inference_suffix_is_no_part_of_the_origin(base_url: str) -> None:
    assert CloudClient(base_url, "k").origin == "http://h:1"


@pytest.mark.parametrize(
    "base_url",
    ["", "h:1", "ftp://h/v1", "file:///etc/passwd", "http://", "http://h:x", "http://a b"],
)
def test_an_unusable_url_is_refused_before_anything_is_sent(base_url: str) -> None:
    with pytest.raises(UnusableError, match="base URL must look like"):
        CloudClient(base_url, "k")


@pytest.mark.parametrize("key", ["a b", "a\nX: y", "ключ", "a\x00"])
def test_an_unusable_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UnusableError, match="must be printable ASCII") as raised:
        CloudClient("http://h:1", key)
    assert key not in str(raised.value)


@pytest.mark.parametrize("reference", ["", ".", ".."])
def test_a_reference_that_would_name_another_path_is_refused(reference: str) -> None:
    with pytest.raises(UnusableError):
        segment(reference)


def test_a_reference_stays_one_segment() -> None:
    assert segment("a/b?c#d e") == "a%2Fb%3Fc%23d%20e"


def test_what_is_sent(serve: Serve) -> None:
    stub = serve(Reply({"id": "x"}))
    client = client_of(stub)
    assert client.post("/models", {"name": "é"}, {"project": "p q", "none": None}) == {"id": "x"}
    [request] = stub.requests
    assert (request.method, request.path) == ("POST", "/cloud/v1/models")
    assert (request.body, request.query) == ({"name": "é"}, {"project": "p q"})
    assert request.headers["Authorization"] == "Bearer tmt_key"
    assert request.headers["Content-Type"] == "application/json"


def test_an_empty_reply_is_an_empty_object(serve: Serve) -> None:
    assert client_of(serve(Reply(b"", 204))).delete("/models/m") == {}


def test_an_error_is_read_from_the_union_body(serve: Serve) -> None:
    stub = serve(error(409, "name_taken", "taken", "name", x_request_id="req_1"))
    with pytest.raises(ApiError, match="taken") as raised:
        client_of(stub).post("/projects", {})
    told = raised.value
    assert (told.status, told.code, told.param) == (409, "name_taken", "name")
    assert told.request_id == "req_1"


def test_a_list_is_fetched_page_by_page_up_to_the_limit(serve: Serve) -> None:
    everything = [{"id": f"i{number:03}"} for number in range(250)]

    def answer(request: Request) -> Reply:
        after, limit = request.query.get("after"), int(request.query["limit"])
        start = next((n + 1 for n, item in enumerate(everything) if item["id"] == after), 0)
        page = everything[start : start + limit]
        return listing(*page, has_more=start + limit < len(everything))

    stub = serve(answer)
    whole = client_of(stub).list_all("/models", {"project": "p"}, limit=1000)
    assert whole["data"] == everything
    assert (whole["first_id"], whole["last_id"], whole["has_more"]) == ("i000", "i249", False)
    assert all(request.query["project"] == "p" for request in stub.requests)
    assert len(stub.requests) == 3

    part = client_of(stub).list_all("/models", limit=130)
    assert (part["data"], part["has_more"]) == (everything[:130], True)
    assert stub.requests[-1].query == {"limit": "30", "after": "i099"}


def test_a_server_that_repeats_one_page_for_ever_is_bounded_by_the_limit(serve: Serve) -> None:
    stub = serve(listing({"id": "same"}, has_more=True))
    assert len(client_of(stub).list_all("/models", limit=5)["data"]) == 5
    assert len(stub.requests) == 5


def test_a_get_is_repeated_while_the_server_is_away(serve: Serve) -> None:
    answers = [error(503, "unavailable", "soon", retry_after="2"), Reply(b"", 503), Reply({"a": 1})]
    stub = serve(lambda _: answers.pop(0))
    naps = Naps()
    assert client_of(stub, naps).get("/whoami") == {"a": 1}
    assert naps.taken_s == [2.0, 1.0]


def test_a_get_is_not_repeated_for_ever(serve: Serve) -> None:
    stub = serve(error(503, "unavailable", "away"))
    with pytest.raises(ApiError, match="away"):
        client_of(stub).get("/whoami")
    assert len(stub.requests) == 3


def test_a_long_wait_is_for_the_user_to_decide_about(serve: Serve) -> None:
    stub, naps = serve(error(503, "unavailable", "away", retry_after="60")), Naps()
    with pytest.raises(ApiError) as raised:
        client_of(stub, naps).get("/whoami")
    assert raised.value.retry_after_s == 60
    assert (len(stub.requests), naps.taken_s) == (1, [])


@pytest.mark.parametrize("method", ["post", "patch", "delete"])
def test_a_change_is_never_repeated(serve: Serve, method: str) -> None:
    stub = serve(error(503, "unavailable", "away"))
    body = () if method == "delete" else ({},)
    with pytest.raises(ApiError):
        getattr(client_of(stub), method)("/deployments/d", *body)
    assert len(stub.requests) == 1


def test_nobody_there() -> None:
    naps = Naps()
    with pytest.raises(UnreachableError, match=r"cannot reach http\S+: connection refused"):
        CloudClient(NOBODY, "k", 1.0, sleep=naps).get("/whoami")
    assert len(naps.taken_s) == 2


def test_a_redirect_is_not_followed_with_the_key(serve: Serve) -> None:
    elsewhere = serve(Reply({}))
    stub = serve(Reply(b"", 307, {"Location": elsewhere.base_url}))
    with pytest.raises(BadReplyError, match="redirect"):
        client_of(stub).get("/whoami")
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        Reply(b"[1]"),
        Reply(b"null"),
        Reply(b"\xff\xfe"),
        Reply(b"[" * 100_000),
        Reply(b" " * REPLY_BYTES_MAX + b"{}"),
    ],
    ids=["html", "array", "null", "binary", "deep", "huge"],
)
def test_a_reply_that_is_not_ours_says_so(serve: Serve, reply: Reply) -> None:
    with pytest.raises(BadReplyError, match="check that the base URL"):
        client_of(serve(reply)).get("/whoami")


def test_a_reply_that_breaks_off_is_an_outage(serve: Serve) -> None:
    with pytest.raises(UnreachableError, match="broke off"):
        client_of(serve(Reply({"a": 1}, cut=True))).get("/whoami")


@pytest.mark.parametrize(
    "reply", [Reply(b"<h1>Bad Gateway</h1>", 502), Reply(b"", 502), Reply([], 502), Reply({}, 502)]
)
def test_an_error_of_another_server_keeps_its_status(serve: Serve, reply: Reply) -> None:
    with pytest.raises(ApiError, match="answered 502") as raised:
        client_of(serve(reply)).post("/models", {})
    assert raised.value.status == 502


@pytest.mark.parametrize("data", [None, 5, "x", [1], {"a": 1}])
def test_a_list_without_its_data_is_not_ours(serve: Serve, data: object) -> None:
    with pytest.raises(BadReplyError, match="a list without its data"):
        client_of(serve(Reply({"data": data}))).list_all("/models", limit=10)


def test_a_stream_is_read_chunk_by_chunk(serve: Serve) -> None:
    stub = serve(chunks("Hel", "lo", usage=2))
    said = list(client_of(stub).stream_chat({"model": "m", "messages": []}))
    assert [c["choices"][0]["delta"]["content"] for c in said if c["choices"]] == ["Hel", "lo"]
    assert said[-1]["usage"] == {"completion_tokens": 2}
    [request] = stub.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {"model": "m", "messages": [], "stream": True}


def test_a_stream_that_ends_early_is_an_outage(serve: Serve) -> None:
    with pytest.raises(UnreachableError, match="before the end"):
        list(client_of(serve(chunks("Hel", done=False))).stream_chat({}))


def test_an_error_inside_a_stream_is_an_error(serve: Serve) -> None:
    frame = (
        b'data: {"choices": [], "error": {"message": "engine died", "code": "upstream_error"}}\n\n'
    )
    stub = serve(Reply(frame, headers={"Content-Type": "text/event-stream"}))
    with pytest.raises(ApiError, match="engine died"):
        list(client_of(stub).stream_chat({}))


@pytest.mark.parametrize(
    "reply", [Reply({}), Reply(b"data: x\n\n", headers={"Content-Type": "text/event-stream"})]
)
def test_a_stream_that_is_not_ours_says_so(serve: Serve, reply: Reply) -> None:
    with pytest.raises(BadReplyError):
        list(client_of(serve(reply)).stream_chat({}))
