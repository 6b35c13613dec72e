"""TLS on the public port, with openssl's certificates, and mutual TLS to replicas."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.certificates import Authority, Pair
from tests.support.client_envs import make
from tests.support.gateway import (
    MEMBER_KEY,
    MODEL,
    GatewayProcess,
    chat_body,
    data_of,
    make_route,
    make_table,
    post,
    read_all,
)
from tests.support.stub_control import StubControl
from tests.support.stub_engine import StubEngine
from tests.support.waiting import until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


class Secured:
    """A gateway with TLS, its engine, its control plane and the CA of its certificate."""

    def __init__(self, folder: Path, engine: StubEngine, control: StubControl) -> None:
        self.ca = Authority(folder)
        self.shown = self.ca.sign("first")
        self.engine, self.control = engine, control
        self.gateway = GatewayProcess(
            folder / "home",
            control.url,
            TRAMONTANE_TLS_CERTIFICATE=str(self.shown.certificate),
            TRAMONTANE_TLS_KEY=str(self.shown.key),
        )
        self.url = f"https://127.0.0.1:{self.gateway.port}"
        self.trusted = self.ca.trusted()

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {MEMBER_KEY}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10, verify=self.trusted)

    def connect(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.gateway.port), timeout=10)
        return self.trusted.wrap_socket(raw, server_hostname="127.0.0.1")

    def name(self) -> str:
        """Return whom a new connection is shown."""
        with self.connect() as sock:
            subject: Any = (sock.getpeercert() or {})["subject"]
        return subject[0][0][1]

    def renew(self, pair: Pair) -> None:
        """Put ``pair`` where the gateway's certificate is."""
        for source, target in (
            (pair.key, self.shown.key),
            (pair.certificate, self.shown.certificate),
        ):
            fresh = target.with_suffix(".fresh")
            shutil.copyfile(source, fresh)
            fresh.rename(target)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    with (
        StubEngine() as engine,
        StubControl(make_table(make_route([engine.address], context_length=1 << 20))) as control,
    ):
        found = Secured(folder, engine, control)
        with found.gateway, found.client() as client:

            def is_ready() -> bool:
                try:
                    return client.get("/ready").status_code == 200
                except httpx.TransportError:
                    return False

            until(is_ready, "the gateway")
            yield found


def test_the_official_client_and_curl(secured: Secured, tmp_path: Path):
    script = tmp_path / "ask.py"
    script.write_text(
        "import ssl, sys\n"
        "from openai import DefaultHttpxClient, OpenAI\n"
        "http = DefaultHttpxClient(verify=ssl.create_default_context(cafile=sys.argv[3]))\n"
        "client = OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], http_client=http)\n"
        "ask = dict(model=sys.argv[4], messages=[dict(role='user', content='x')])\n"
        "print(client.chat.completions.create(**ask).choices[0].message.content)\n"
        "for part in client.chat.completions.create(**ask, stream=True):\n"
        "    print(part.choices[0].delta.content if part.choices else '', end='')\n"
    )
    ca = str(secured.ca.certificate)
    arguments = (f"{secured.url}/v1", MEMBER_KEY, ca, MODEL)
    told = make("openai-3").run(script, *arguments, timeout_s=60)
    assert told.count("tok 0tok 1tok 2") == 2
    curl = ["curl", "-sS", "--cacert", ca, "-H", f"Authorization: Bearer {MEMBER_KEY}"]
    curl += ["--json", json.dumps(chat_body()), secured.url + CHAT]
    done = subprocess.run(curl, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "tok 0tok 1tok 2"
    old = subprocess.run([*curl, "--tls-max", "1.1"], capture_output=True, text=True, check=False)
    assert old.returncode == 35, old.stderr  # its handshake failed


def test_whoever_speaks_no_tls_or_does_not_trust_is_dropped(secured: Secured):
    assert b"HTTP/1.1 2" not in secured.gateway.raw(post(CHAT, b"{}"), end=True)
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(secured.url, verify=ssl.create_default_context())
    with secured.client() as client:
        assert client.post(CHAT, json=chat_body()).status_code == 200


def test_large_bodies_both_ways_and_an_early_refusal(secured: Secured):
    text = "x" * 3_000_000
    talk = [{"role": "user", "content": text}]
    whole = json.dumps({"choices": [{"message": {"content": text}}], "model": MODEL, "usage": {}})
    with secured.client() as client:
        reply = client.post(CHAT, json=chat_body(messages=talk, stub={"raw": whole}))
        assert reply.status_code == 200, reply.text[:500]
        assert reply.json()["choices"][0]["message"]["content"] == text
    length = 64 * 1024 * 1024
    with secured.connect() as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        sock.sendall(head.encode() + b"y" * 100_000)
        assert read_all(sock).startswith(b"HTTP/1.1 413 ")


def test_forwarded_calls_say_that_they_came_by_tls(secured: Secured):
    secured.control.calls.clear()
    with secured.client() as client:
        client.get("/cloud/v1/models")
    assert secured.control.calls[0].headers["x-forwarded-proto"] == "https"


def test_a_renewed_certificate_counts_and_nothing_is_dropped(secured: Secured):
    with secured.client() as client:
        body = chat_body(stream=True, stub={"chunks": 60, "pause_s": 0.05})
        with client.stream("POST", CHAT, json=body) as reply:
            parts = reply.iter_raw()
            first = next(parts)
            secured.renew(secured.ca.sign("second"))
            until(lambda: secured.name() == "second", "the new certificate, by itself")
            fields = (first + b"".join(parts)).decode()
        assert data_of(fields)[-1] == "[DONE]"
        assert len(data_of(fields)) > 60
        # Half a renewal: the certificate before goes on, and the rest counts when it comes.
        third = secured.ca.sign("third")
        secured.shown.certificate.write_bytes(third.certificate.read_bytes())
        process = secured.gateway.process
        assert process is not None
        process.send_signal(signal.SIGHUP)
        log = secured.gateway.home / "logs" / "gateway.log"
        until(lambda: "stays in use" in log.read_text(), "the refusal of half a renewal")
        assert secured.name() == "second"
        secured.renew(third)
        process.send_signal(signal.SIGHUP)
        until(lambda: secured.name() == "third", "the third certificate")
        assert client.post(CHAT, json=chat_body()).status_code == 200


@pytest.mark.parametrize("what", ["missing", "not PEM", "another's key", "a passphrase"])
def test_files_that_do_not_fit_stop_the_start_in_one_line(what: str, tmp_path: Path):
    ca = Authority(tmp_path)
    pair = ca.sign("first")
    if what == "missing":
        pair.key.unlink()
    elif what == "not PEM":
        pair.certificate.write_bytes(b"\x00")
    elif what == "another's key":
        pair = Pair(pair.certificate, ca.sign("second").key)
    else:
        locked = tmp_path / "locked.key"
        command = ["openssl", "ec", "-in", str(pair.key), "-aes128", "-passout", "pass:x"]
        subprocess.run([*command, "-out", str(locked)], check=True, capture_output=True)
        pair = Pair(pair.certificate, locked)
    variables = {
        "TRAMONTANE_TLS_CERTIFICATE": str(pair.certificate),
        "TRAMONTANE_TLS_KEY": str(pair.key),
    }
    gateway = GatewayProcess(tmp_path / "home", "http://127.0.0.1:1", **variables)
    command = {"args": gateway.argv, "env": gateway.environment, "pass_fds": (gateway.fd,)}
    done = subprocess.run(
        **command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30
    )
    gateway.close()
    assert done.returncode == 78, done.stderr
    assert done.stderr.count("\n") == 1
    assert str(pair.key) in done.stderr


def knows_models(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/models").status_code == 200
    except httpx.TransportError:
        return False


def test_replicas_by_mutual_tls(tmp_path: Path):
    ca, others = Authority(tmp_path), Authority(tmp_path, "other-ca")
    theirs, ours = ca.sign("engine"), ca.sign("gateway")
    tls = ca.serving(theirs, asks_clients=True)
    base = {"TRAMONTANE_REPLICA_TLS_CA": str(ca.certificate)}
    shows = {
        **base,
        "TRAMONTANE_REPLICA_TLS_CERTIFICATE": str(ours.certificate),
        "TRAMONTANE_REPLICA_TLS_KEY": str(ours.key),
    }
    with (
        StubEngine(tls=tls) as engine,
        StubControl(make_table(make_route([engine.address], context_length=1 << 20))) as control,
    ):
        with GatewayProcess(tmp_path / "one", control.url, **shows) as gateway:
            gateway.wait_ready()
            for _ in range(3):
                assert gateway.chat().status_code == 200
            assert gateway.stream(stub={"chunks": 200})[-1] == "[DONE]"
            assert (
                gateway.chat(messages=[{"role": "user", "content": "x" * 2_000_000}]).status_code
                == 200
            )
            assert gateway.chat(stub={"die": "before"}).status_code == 502
            seen = len(engine.requests)
            control.wait_events(len(set(engine.ids)))
            assert gateway.end(signal.SIGTERM) == 0
        refusing = {
            "no certificate of ours": base,
            "a CA that did not sign theirs": {
                **shows,
                "TRAMONTANE_REPLICA_TLS_CA": str(others.certificate),
            },
            "no TLS": {},
        }
        for number, variables in enumerate(refusing.values()):
            home = tmp_path / f"refused-{number}"
            with GatewayProcess(home, control.url, **variables) as gateway:
                with gateway.client() as client:  # without a route table it refuses for that
                    until(lambda c=client: knows_models(c), "the route table")
                refused = gateway.chat()
                assert refused.status_code in {502, 503}, refused.text
                assert "route table" not in refused.json()["message"]
        assert len(engine.requests) == seen


def test_up_speaks_tls_from_the_first_line(tmp_path: Path):
    pair = Authority(tmp_path).sign("first")
    environment = {
        **os.environ,
        "TRAMONTANE_TLS_CERTIFICATE": str(pair.certificate),
        "TRAMONTANE_TLS_KEY": str(pair.key),
        "TRAMONTANE_DEMO": "false",
    }
    argv = [
        sys.executable,
        "-m",
        "tramontane.main",
        "up",
        "--home",
        str(tmp_path / "home"),
        "--port",
        "0",
    ]
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not any("base URL" in line for line in lines):
            line = process.stdout.readline()
            assert line, lines
            lines.append(line)
        (line,) = [line for line in lines if "base URL" in line]
        url = line.split()[-1]
        assert url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        assert httpx.get(url.removesuffix("/v1") + "/health", verify=trusted).status_code == 200
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()
