"""Runners reach the control plane by the one origin that everybody uses, without an API key."""

import sqlite3
import time
from contextlib import closing

import httpx
import pytest

from tests.support.system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_a_report_comes_through_the_gateway(system: System) -> None:
    replica = next(
        it
        for it in system.pages("/replicas", deployment=system.deployment()["id"])
        if it["status"] == "ready"
    )
    with closing(sqlite3.connect(system.home / "tramontane.sqlite")) as store:
        query = "SELECT secret FROM replicas WHERE id = ?"
        (secret,) = store.execute(query, (replica["id"],)).fetchone()
    origin = system.base_url.removesuffix("/v1")
    url = f"{origin}/cloud/v1/runners/{replica['id']}/report"
    body = {"run_state": "ready", "at_ms": time.time_ns() // 1_000_000, "address": "127.0.0.1:8000"}
    with httpx.Client(trust_env=False) as client:

        def send(key: str) -> httpx.Response:
            return client.post(url, json=body, headers={"authorization": f"Bearer {key}"})

        for key in ("wrong", system.api_key):
            assert send(key).status_code == 401
        body["address"] = "10.0.0.1:8000"  # not where the report comes from
        assert send(secret).status_code == 400
        body["address"] = "127.0.0.1:8000"
        reply = send(secret)
        assert (reply.status_code, reply.json()) == (200, {"wanted": True})
        # This driver reads the reports of its runners itself: nobody believes the address.
        assert system.chat().status_code == 200
