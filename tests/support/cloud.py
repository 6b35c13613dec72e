"""The real API over a real SQLite store, called in this process, with three keys and a catalogue.

`Cloud.call` sends one request; `Cloud.tables` reads every row of every table, for tests that must
show that nothing has changed.
"""

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from tests.support.weights import write_gguf
from tramontane.api.app import create_app
from tramontane.domain.deployment import DeploymentStatus
from tramontane.domain.fleet import Cluster, ClusterStatus, Node, NodeStatus
from tramontane.domain.jobs.job import Attempt
from tramontane.domain.launch import LaunchSpec
from tramontane.domain.replica import Replica, ReplicaStatus
from tramontane.domain.resources import Resources
from tramontane.domain.tenancy import Organization, Principal, Project
from tramontane.domain.usage import Outcome, TokenSource, UsageEvent
from tramontane.engines.recipes import RECIPES
from tramontane.runtime.clock import ManualClock, SystemIds
from tramontane.services.all import Services, make_services
from tramontane.services.api_keys import NewApiKey
from tramontane.services.bootstrap import Bootstrap, FirstKeys
from tramontane.store import deployments, fleet, replicas, usage
from tramontane.store.db import Database

HMAC_KEY = bytes(range(32))
GATEWAY_TOKEN = "token-of-the-gateways"
NODE_CAPACITY = Resources(cpu_millicores=8_000, memory_bytes=8 << 30, devices=2)


@dataclass(frozen=True, slots=True)
class Started:
    """What a first start made, so that a copied database need not start again."""

    keys: FirstKeys
    organization: Organization
    project: Project
    operator: Principal
    member: Principal
    demo_model: Path


class Cloud:
    """Everything that a test of the API needs; close it at the end.

    ``started`` is the first start of the database at ``url``; None: it has not been started.
    """

    keys: FirstKeys
    organization: Organization
    project: Project
    operator: Principal
    member: Principal
    demo_model: Path

    def __init__(self, url: str, folder: Path, started: Started | None = None) -> None:
        self.db = Database(url)
        self.folder = folder
        self.clock = ManualClock()
        self.ids = SystemIds()
        self.wakes = 0
        self.lines: list[str] | None = ["first line", "last line"]
        self.services = self._make_services()
        self.app = create_app(self.services, gateway_token=GATEWAY_TOKEN, ids=self.ids)
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://cloud", trust_env=False
        )
        self._path = url.removeprefix("sqlite:///")
        if started is None:
            self.demo_model = write_gguf(folder / "demo.gguf")
        else:
            self._take(started)

    def start(self) -> Started:
        """Run the first start."""
        made = self.bootstrap().run()
        assert made.keys
        started = Started(
            keys=made.keys,
            organization=made.organization,
            project=made.project,
            operator=self.principal(made.keys.admin_key),
            member=self.principal(made.keys.api_key),
            demo_model=self.demo_model,
        )
        self._take(started)
        return started

    def _take(self, started: Started) -> None:
        self.keys, self.demo_model = started.keys, started.demo_model
        self.organization, self.project = started.organization, started.project
        self.operator, self.member = started.operator, started.member

    def _make_services(self) -> Services:
        return make_services(
            db=self.db,
            clock=self.clock,
            ids=self.ids,
            hmac_key=HMAC_KEY,
            recipes=RECIPES,
            models_root=None,
            logs=lambda _replica, lines_max: self.lines and self.lines[-lines_max:],
            attempt_logs=self,
            plan=lambda: {"snapshot": {"nodes": []}, "plan": {"actions": []}},
            wake=self._wake,
            wake_jobs=self._wake,
        )

    def tail(self, attempt: Attempt, lines_max: int) -> list[str] | None:
        """Return the last lines of an attempt."""
        return self.lines and self.lines[-lines_max:]

    def read(self, attempt: Attempt, rank: int, offset: int, bytes_max: int) -> bytes | None:
        """Return a piece of what an attempt wrote."""
        if self.lines is None:
            return None
        text = "".join(f"{line}\n" for line in self.lines)
        return text.encode()[offset : offset + bytes_max]

    def bootstrap(self, demo_model: Path | None = None) -> Bootstrap:
        """Return the first start of this installation."""
        return Bootstrap(
            db=self.db,
            clock=self.clock,
            ids=self.ids,
            hmac_key=HMAC_KEY,
            models=self.services.models,
            deployments=self.services.deployments,
            demo_model=demo_model or self.demo_model,
        )

    def principal(self, key: str) -> Principal:
        """Return whose key it is."""
        return self.services.authentication.principal(key)

    def new_member(self, project: str = "other") -> str:
        """Make a project and return the text of a member key of it."""
        self.services.projects.create(self.operator, project, None)
        _, text = self.services.api_keys.create(
            self.operator, NewApiKey(name="member", project=project)
        )
        return text

    def close(self) -> None:
        """Close the event loop and the database."""
        self._runner.run(self._client.aclose())
        self._runner.close()
        self.db.close()

    def call(
        self, method: str, path: str, *, key: str | None = None, **sent: Any
    ) -> httpx.Response:
        """Send one request with the operator's key, another one, or none (``key=""``)."""
        return self._runner.run(self.send(method, path, key=key, **sent))

    def cloud(self, method: str, path: str, **sent: Any) -> Any:
        """Call ``/cloud/v1`` + ``path``, which must succeed, and return the decoded reply."""
        reply = self.call(method, f"/cloud/v1{path}", **sent)
        assert reply.is_success, reply.text
        return reply.json()

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the loop that `call` uses."""
        return self._runner.run(coroutine)

    async def send(
        self, method: str, path: str, *, key: str | None = None, **sent: Any
    ) -> httpx.Response:
        """As `call`, for several requests at a time."""
        key = self.keys.admin_key if key is None else key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers |= sent.pop("headers", {})
        return await self._client.request(method, path, headers=headers, **sent)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every row of every table."""
        with closing(sqlite3.connect(self._path)) as connection:
            named = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            names = [row[0] for row in connection.execute(named)]
            return {name: list(connection.execute(f'SELECT * FROM "{name}"')) for name in names}

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Assert that the block changes no row and wakes nobody."""
        before, woken = self.tables(), self.wakes
        yield
        assert self.tables() == before
        assert self.wakes == woken

    def add_node(self, capacity: Resources = NODE_CAPACITY, name: str = "node-1") -> Node:
        """Record a node, as a reconciler would."""
        now_ms = self.clock.now_ms()

        def write(tx: Any) -> Node:
            cluster = fleet.get_cluster(tx, "local") or fleet.upsert_cluster(
                tx,
                Cluster(self.ids.new("clu"), "local", "process", ClusterStatus.READY, now_ms),
            )
            node_id = self.ids.new("nod")
            node = Node(node_id, cluster.id, name, NodeStatus.READY, capacity, (), now_ms)
            return fleet.upsert_node(tx, node)

        return self.db.write(write)

    def add_replica(self, deployment_id: str, project_id: str, node: Node) -> Replica:
        """Record a replica, as a reconciler would."""
        launch = LaunchSpec(("engine",), (("S", "x"),), Resources(1000, 1 << 20), "/h", None, 9, 9)
        now_ms = self.clock.now_ms()
        replica = Replica(
            id=self.ids.new("rep"),
            deployment_id=deployment_id,
            project_id=project_id,
            generation=1,
            status=ReplicaStatus.PENDING,
            cluster_id=node.cluster_id,
            node_id=node.id,
            launch=launch,
            secret="the-secret-of-the-replica",
            created_at_ms=now_ms,
            changed_at_ms=now_ms,
            address="127.0.0.1:9",
        )
        self.db.write(lambda tx: replicas.insert(tx, replica))
        return replica

    def stop(self, deployment_id: str) -> None:
        """Record that nothing of the deployment runs any more, as a reconciler would."""

        def write(tx: Any) -> None:
            seen = deployments.get_for(tx, None, deployment_id)
            assert seen
            deployments.update(tx, seen, replace(seen, status=DeploymentStatus.STOPPED))

        self.db.write(write)

    def usage_event(self, **changes: Any) -> UsageEvent:
        """Return a usage event of the first project, changed."""
        fields: dict[str, Any] = {
            "id": self.ids.new("evt"),
            "request_id": self.ids.new("req"),
            "organization_id": self.organization.id,
            "project_id": self.project.id,
            "api_key_id": self.member.key_id,
            "deployment_id": "dep_a",
            "replica_id": "rep_a",
            "model": "tramontane-demo",
            "endpoint": "/v1/chat/completions",
            "outcome": Outcome.COMPLETED,
            "status": 200,
            "is_stream": False,
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "cached_tokens": 0,
            "token_source": TokenSource.ENGINE,
            "started_at_ms": self.clock.now_ms(),
            "duration_ms": 12,
            "first_byte_ms": 4,
            "gateway": "gw",
        }
        return UsageEvent(**fields | changes)

    def add_usage(self, *events: UsageEvent) -> None:
        """Record usage events."""
        self.db.write(lambda tx: usage.accept(tx, events, self.clock.now_ms()))

    def _wake(self) -> None:
        self.wakes += 1


def check_error(reply: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """Check the union error body and return its message."""
    assert reply.status_code == status, reply.text
    body: Mapping[str, Any] = reply.json()
    assert body["object"] == "error"
    assert body["error"] == {name: body[name] for name in ("message", "type", "param", "code")}
    assert body["code"] == code, body
    assert body["param"] == param, body
    assert reply.headers["x-request-id"]
    assert len(body["message"]) < 1000
    assert json.dumps(body).isascii()
    return body["message"]
