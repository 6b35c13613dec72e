"""How many logs a project and a key may follow at a time, and that each place is given back."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from tests.api.test_jobs import PLAIN, make_attempt
from tests.support.cloud import Cloud, check_error
from tramontane.api import open_streams
from tramontane.api.routes.jobs import jobs as routes
from tramontane.domain.jobs.job import JobStatus
from tramontane.store.jobs import jobs

LIMIT_S = 20.0


class Reader:
    """One client of ``/logs``, as a server would call the application for it."""

    def __init__(self, cloud: Cloud, key: str, path: str) -> None:
        self.status = 0
        self.text = b""
        self.has_output = asyncio.Event()
        self.breaks = False
        self._has_sent = False
        self._leaves = asyncio.Event()
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"authorization", f"Bearer {key}".encode())],
        }
        self.task = asyncio.ensure_future(self._call(cloud.app, scope))

    async def _call(self, app: Any, scope: dict[str, Any]) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self.breaks:
            raise OSError
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.text += message.get("body", b"")
        if self.text or self.status != 200:
            self.has_output.set()

    async def reads(self) -> "Reader":
        """Wait for the first piece, or the refusal."""
        async with asyncio.timeout(LIMIT_S):
            await self.has_output.wait()
        return self

    async def leave(self) -> None:
        """Hang up, and wait until the application has noticed."""
        self._leaves.set()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait([self.task])


class Crowd:
    """Opens readers of one running job of the first project."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.keys = [cloud.keys.api_key]
        body = {"name": "colleague", "project": "default"}
        self.keys.append(cloud.cloud("POST", "/api-keys", json=body)["key"])
        self.path = self.running_job(cloud.keys.api_key)

    def running_job(self, key: str) -> str:
        """Submit a job, record it as running and return the path of its followed log."""
        made = self.cloud.cloud("POST", "/jobs", key=key, json=PLAIN)
        with self.cloud.db.read() as tx:
            seen = jobs.get_for(tx, None, made["id"])
        assert seen is not None
        job = replace(seen, status=JobStatus.RUNNING)
        job = self.cloud.db.write(lambda tx: jobs.update(tx, seen, job))
        make_attempt(self.cloud, job)
        return f"/cloud/v1/jobs/{job.id}/logs?follow=true"

    async def open(self, key: str, path: str | None = None) -> Reader:
        """Begin to read and wait for the first piece or the refusal."""
        return await Reader(self.cloud, key, path or self.path).reads()

    async def refused(self, key: str) -> str:
        """Check that one reader more is refused, and return what it is told."""
        reply = await self.cloud.send("GET", self.path, key=key)
        assert reply.headers["retry-after"] == "5"
        return check_error(reply, 429, "rate_limit_exceeded")

    async def has_room(self) -> None:
        """Check that a key can open as many streams as ever, and no more."""
        readers = [await self.open(self.keys[0]) for _ in range(2)]
        assert [reader.status for reader in readers] == [200, 200]
        await self.refused(self.keys[0])
        for reader in readers:
            await reader.leave()

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        """Run a story; no reader is left after it."""

        async def whole() -> None:
            try:
                await story
            finally:
                left = asyncio.all_tasks() - {asyncio.current_task()}
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)

        self.cloud.run(whole())


@pytest.fixture
def crowd(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    monkeypatch.setattr(routes, "_POLL_S", 0.01)
    monkeypatch.setattr(open_streams, "PER_PROJECT_MAX", 3)
    monkeypatch.setattr(open_streams, "PER_KEY_MAX", 2)
    return Crowd(cloud)


def test_a_key_and_a_project_have_a_bound_and_others_are_unaffected(crowd: Crowd) -> None:
    stranger = crowd.cloud.new_member("theirs")
    theirs = crowd.running_job(stranger)
    last_lines = crowd.path.replace("follow=true", "lines=1")

    async def story() -> None:
        first, second = crowd.keys
        readers = [await crowd.open(first), await crowd.open(first)]
        told = await crowd.refused(first)
        assert told.startswith("2 logs are being read by this API key, and at most 2 may be")
        assert "end one" in told
        assert "lines=100" in told
        readers.append(await crowd.open(second))
        told = await crowd.refused(second)
        assert told.startswith("3 logs are being read by this project, and at most 3 may be")
        assert (await crowd.cloud.send("GET", last_lines, key=first)).text == "last line\n"
        readers += [await crowd.open(stranger, theirs), await crowd.open(stranger, theirs)]
        assert [reader.status for reader in readers] == [200] * 5
        assert {reader.text for reader in readers} == {b"first line\nlast line\n"}

    crowd.run(story())


def test_an_operator_takes_no_place_of_the_project_that_it_looks_at(crowd: Crowd) -> None:
    stranger = crowd.cloud.new_member("theirs")
    theirs = crowd.running_job(stranger)

    async def story() -> None:
        operator = crowd.cloud.keys.admin_key
        opened = [await crowd.open(key, theirs) for key in (operator, operator, *[stranger] * 2)]
        assert [reader.status for reader in opened] == [200] * 4

    crowd.run(story())


@pytest.mark.parametrize("times", [1, 5])
def test_a_reader_that_hangs_up_gives_its_place_back(crowd: Crowd, times: int) -> None:
    async def story() -> None:
        for _ in range(times):
            readers = [await crowd.open(crowd.keys[0]) for _ in range(2)]
            await crowd.refused(crowd.keys[0])
            await readers[0].leave()
            readers[0] = await crowd.open(crowd.keys[0])
            assert readers[0].status == 200
            await crowd.refused(crowd.keys[0])
            for reader in readers:
                await reader.leave()
        await crowd.has_room()

    crowd.run(story())


def test_every_other_end_gives_the_place_back(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut connection, a cancelled request, a bug and a log that is over."""

    async def story() -> None:
        for _ in range(3):
            cut = await crowd.open(crowd.keys[0])
            cut.breaks = True
            crowd.cloud.lines = ["more"] * 100
            async with asyncio.timeout(LIMIT_S):
                await asyncio.wait([cut.task])
            assert cut.task.exception() is not None
            crowd.cloud.lines = ["first line"]
            cancelled = await crowd.open(crowd.keys[0])
            cancelled.task.cancel()
            await asyncio.wait([cancelled.task])
            buggy = await crowd.open(crowd.keys[0])
            with monkeypatch.context() as patch:
                patch.setattr(crowd.cloud.services.job_logs, "is_over", None)
                async with asyncio.timeout(LIMIT_S):
                    await asyncio.wait([buggy.task])
            assert buggy.task.exception() is not None
            whole = await crowd.cloud.send("GET", crowd.path.partition("?")[0])
            assert whole.text == "first line\n"
        await crowd.has_room()

    crowd.run(story())
