"""The client of slurmrestd against servers that misbehave in every way, and its tokens."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.raw_http import Last, RawServer, Request, reply
from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.dialects.records import JobOrder
from tramontane.drivers.slurm.rest import client as rest
from tramontane.drivers.slurm.rest.api import SlurmApi
from tramontane.drivers.slurm.rest.client import (
    NoAddressError,
    NotSentError,
    RestClient,
    TokenRefusedError,
)
from tramontane.drivers.slurm.rest.jwt import LIFETIME_S, RENEW_S, TokenSource
from tramontane.runtime.clock import ManualClock

KEY = b"k" * 32


@pytest.fixture
def tokens(tmp_path: Path) -> TokenSource:
    key = tmp_path / "jwt.key"
    key.write_bytes(KEY)
    return TokenSource(key, ManualClock())


def claims_of(token: str, key: bytes = KEY) -> dict[str, object]:
    """Return the claims of a token whose signature holds."""

    def decoded(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    head, body, signature = token.split(".")
    digest = hmac.new(key, f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert hmac.compare_digest(decoded(signature), digest)
    assert json.loads(decoded(head)) == {"alg": "HS256", "typ": "JWT"}
    return json.loads(decoded(body))


def test_a_token_is_one_users_and_renewed_in_time(tmp_path: Path) -> None:
    path, clock = tmp_path / "jwt.key", ManualClock(1_000_000_000)
    path.write_bytes(KEY)
    tokens = TokenSource(path, clock)
    first = tokens.token("acme-svc")
    assert claims_of(first) == {"sun": "acme-svc", "iat": 999_940, "exp": 1_000_000 + LIFETIME_S}
    assert claims_of(tokens.token("root"))["sun"] == "root"
    path.unlink()  # it is not read again while a token is good
    clock.advance((LIFETIME_S - RENEW_S) * 1000)
    assert tokens.token("acme-svc") == first
    clock.advance(1000)
    path.write_bytes(b"another key")
    assert (
        claims_of(tokens.token("acme-svc"), b"another key")["exp"] == clock.now_ms() // 1000 + 600
    )
    path.write_bytes(KEY)
    tokens.discard("acme-svc")
    claims_of(tokens.token("acme-svc"))


def test_a_key_that_cannot_be_read_is_an_outage_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "jwt.key"
    tokens = TokenSource(path, ManualClock())
    with pytest.raises(DriverUnavailableError, match=r"jwt_key .*jwt\.key: No such file"):
        tokens.token("root")
    path.touch()
    with pytest.raises(DriverUnavailableError, match="is empty"):
        tokens.token("root")


def test_a_call_carries_user_and_token(tokens: TokenSource) -> None:
    with RawServer(lambda _: reply(b'{"a": 1}', 201)) as server:
        client = RestClient(f"{server.url}/prefix/", tokens, 5)
        answer = client.call("POST", "/x", "acme-svc", query={"q": "a,b c"}, body={"ü": "\x00"})
        assert (answer.status, answer.document) == (201, {"a": 1})
        (asked,) = server.requests
    assert (asked.method, asked.target) == ("POST", "/prefix/x?q=a%2Cb+c")
    assert asked.headers["x-slurm-user-name"] == "acme-svc"
    assert claims_of(asked.headers["x-slurm-user-token"])["sun"] == "acme-svc"
    assert json.loads(asked.body) == {"ü": "\x00"}


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (None, DriverUnavailableError, "did not answer"),
        (b"garbage\r\n\r\n", DriverUnavailableError, "did not answer"),
        (reply(b"<html>"), DriverUnavailableError, "not JSON"),
        (reply(b"[1]"), DriverUnavailableError, "no object"),
        (reply(b"Internal", 500), DriverUnavailableError, "HTTP 500"),
        (reply(b"Unable find requested URL.", 404), NoAddressError, "does not know the address"),
        (reply(b"Authentication failure", 401), TokenRefusedError, "refuses our token"),
        (Last(reply(b'{"a": 1}')[:-3]), DriverUnavailableError, "did not answer"),
        (reply(b'{"a": "' + b"x" * 5000 + b'"}'), DriverUnavailableError, "more than 4096"),
    ],
)
def test_whatever_keeps_an_answer_from_coming_is_an_outage(
    tokens: TokenSource,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | None,
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(rest, "REPLY_BYTES_MAX", 4096)
    with RawServer(lambda _: answer) as server:
        for asked, method in enumerate(("GET", "POST"), start=1):
            client = RestClient(server.url, tokens, 5)
            with pytest.raises(error, match=words) as raised:
                client.call(method, "/x", "root")
            assert KEY.decode() not in str(raised.value)
            assert len(server.requests) == asked  # on a new connection, nothing is asked twice


def test_nobody_there_means_that_nothing_was_sent(tokens: TokenSource) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NotSentError, match="cannot connect"):
        RestClient(url, tokens, 5).call("POST", "/x", "root")


def test_silence_ends_at_the_limit(tokens: TokenSource) -> None:
    asked = threading.Event()

    def silent(_: Request) -> None:
        asked.wait(10)

    with RawServer(silent) as server:
        began = time.monotonic()
        with pytest.raises(DriverUnavailableError, match=r"within 0.2 s"):
            RestClient(server.url, tokens, 0.2).call("GET", "/x", "root")
        assert time.monotonic() - began < 2
        asked.set()


def echo(request: Request) -> bytes:
    return reply(json.dumps({"target": request.target}).encode())


def test_connections_are_kept_and_shared(tokens: TokenSource) -> None:
    with RawServer(echo) as server:
        client = RestClient(server.url, tokens, 5)
        for number in range(5):
            assert client.call("GET", f"/{number}", "root").document == {"target": f"/{number}"}
        assert server.connections == 1
        failures = together(lambda n: client.call("GET", f"/{n}", "root").document["target"])
        assert failures == []
        assert server.connections <= 1 + 8


def together(ask: Callable[[int], str]) -> list[str]:
    """Ask from eight threads, 25 times each; return what came back wrong."""
    wrong: list[str] = []

    def run(first: int) -> None:
        for number in range(first, first + 25):
            if (told := ask(number)) != f"/{number}":
                wrong.append(told)

    threads = [threading.Thread(target=run, args=(n * 100,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def test_a_reply_that_comes_twice_answers_one_question(tokens: TokenSource) -> None:
    with RawServer(lambda request: echo(request) * 2) as server:
        client = RestClient(server.url, tokens, 5)
        for number in range(20):
            assert client.call("GET", f"/{number}", "root").document == {"target": f"/{number}"}


def test_a_kept_connection_that_was_closed_is_made_anew(tokens: TokenSource) -> None:
    with RawServer(echo) as server:
        client = RestClient(server.url, tokens, 5)
        client.call("GET", "/1", "root")
        server.hang_up()
        assert client.call("GET", "/2", "root").document == {"target": "/2"}
        server.hang_up()
        client.call("POST", "/3", "root")
    assert [request.target for request in server.requests] == ["/1", "/2", "/3"]


ORDER = JobOrder(
    name="att_bbbbbbbbbbbbbbbbbbbb",
    comment="",
    script="",
    folder="/",
    environment=(),
    nodes=1,
    node_names=(),
    cpus=1,
    memory_mb=1,
    gpus=0,
    partition=None,
    account=None,
    qos=None,
    time_limit_min=None,
)


class FakeSlurm:
    """slurmrestd as far as it matters: an OpenAPI document, then whatever ``answers`` says."""

    def __init__(self, version: str = "v0.0.38") -> None:
        self.version = version
        self.answers: dict[str, bytes] = {}

    def __call__(self, request: Request) -> bytes:
        path = request.target.partition("?")[0]
        if path == "/openapi/v3":
            names = (f"/slurm/{self.version}/jobs", f"/slurmdb/{self.version}/jobs")
            return reply(json.dumps({"paths": {name: {} for name in names}}).encode())
        if f"/{self.version}/" not in path:
            return reply(b"Unable find requested URL.", 404)
        return self.answers[path.replace(f"/{self.version}", "")]


def test_an_unknown_version_is_refused_by_name(tokens: TokenSource) -> None:
    with RawServer(FakeSlurm("v0.0.36")) as server:
        api = SlurmApi(RestClient(server.url, tokens, 5), "root")
        with pytest.raises(
            DriverUnavailableError, match=r"offers v0\.0\.36.*v0\.0\.38 to v0\.0\.45"
        ):
            api.nodes()


def test_an_upgrade_of_slurm_is_noticed(tokens: TokenSource) -> None:
    slurm = FakeSlurm("v0.0.38")
    slurm.answers["/slurm/nodes"] = reply(b'{"errors": [], "nodes": []}')
    with RawServer(slurm) as server:
        api = SlurmApi(RestClient(server.url, tokens, 5), "root")
        assert api.nodes() == []
        slurm.version = "v0.0.41"
        with pytest.raises(DriverUnavailableError):
            api.nodes()
        assert api.nodes() == []
        assert api.dialect.version == "v0.0.41"


def test_a_refused_token_is_told_from_an_outage(tokens: TokenSource) -> None:
    slurm = FakeSlurm()
    unspecified = {"description": "Failed while looking for jobs", "error_number": -1, "error": "x"}
    slurm.answers["/slurm/jobs"] = reply(json.dumps({"errors": [unspecified]}).encode(), 500)
    refused = {"error_number": 1007, "error": "Protocol authentication error"}
    slurm.answers["/slurmdb/jobs"] = reply(json.dumps({"errors": [refused]}).encode())
    with RawServer(slurm) as server:
        api = SlurmApi(RestClient(server.url, tokens, 5), "root")
        with pytest.raises(TokenRefusedError, match="is jwt_key the cluster's own"):
            api.jobs(lambda _: True)
        slurm.answers["/slurmdb/jobs"] = reply(b'{"errors": []}')
        with pytest.raises(DriverUnavailableError, match="slurmctld did not answer") as raised:
            api.jobs(lambda _: True)
        assert not isinstance(raised.value, TokenRefusedError)


@pytest.mark.parametrize(
    ("status", "document", "outcome"),
    [
        (200, {"job_id": 7, "errors": []}, 7),
        (200, {"job_id": 7, "errors": [{"error_code": 2015, "error": "later"}]}, 7),
        (200, {"result": {"job_id": 9}, "errors": []}, 9),
        (500, {"errors": [{"error_code": 2000, "error": "Invalid partition"}]}, ValueError),
        (400, {"errors": [{"error_code": 9001, "error": "Failure during parsing"}]}, ValueError),
        (500, {"errors": [{"error_code": 1800, "error": "no connection"}]}, NotSentError),
        (500, {"errors": [{"error_code": 2050, "error": "violates policy"}]}, NotSentError),
        (500, {"errors": [{"error_code": 1801, "error": "send"}]}, DriverUnavailableError),
        (500, {"errors": [{"error_code": 5004, "error": "timed out"}]}, DriverUnavailableError),
        (500, {"errors": [{"error_code": 2090, "error": "internal"}]}, DriverUnavailableError),
        (500, {"errors": []}, DriverUnavailableError),
        (200, {"errors": []}, DriverUnavailableError),
    ],
)
def test_what_became_of_a_submission(
    tokens: TokenSource, status: int, document: dict[str, object], outcome: int | type[Exception]
) -> None:
    slurm = FakeSlurm()
    slurm.answers["/slurm/job/submit"] = reply(json.dumps(document).encode(), status)
    with RawServer(slurm) as server:
        api = SlurmApi(RestClient(server.url, tokens, 5), "root")
        if isinstance(outcome, int):
            assert api.submit(ORDER, "acme-svc") == outcome
            return
        with pytest.raises(outcome) as raised:
            api.submit(ORDER, "acme-svc")
        if outcome is DriverUnavailableError:  # it may have happened
            assert not isinstance(raised.value, NotSentError)
