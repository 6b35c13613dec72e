"""What simulated users do: create, scale, patch and delete deployments, at random."""

import random
from collections.abc import Callable
from dataclasses import replace

from tests.support.planning import GIB, stored_deployment
from tramontane.domain.deployment import AutoscaleSpec, Deployment
from tramontane.domain.planning.autoscale import first_scale
from tramontane.store import deployments
from tramontane.store.db import Database

DEPLOYMENTS_MAX = 4
REPLICAS_MAX = 3
UP_COOLDOWN_MS = 2_000
DOWN_COOLDOWN_MS = 3_000
IDLE_MS = 4_000


class SimUsers:
    """They write desired state as the services do: guarded, one transaction each."""

    def __init__(self, db: Database, chance: random.Random, tell: Callable[[str], None]) -> None:
        self._db = db
        self._chance = chance
        self._tell = tell
        self._made = 0

    def act(self, now_ms: int) -> None:
        """Do one thing."""
        with self._db.read() as tx:
            live = [d for d in deployments.list_live(tx) if d.deleted_at_ms is None]
        if not live or (len(live) < DEPLOYMENTS_MAX and self._chance.random() < 0.3):
            self._create(now_ms)
            return
        seen = self._chance.choice(live)
        change = self._chance.choices(
            [self._scale, self._patch, self._patch_twice, self._delete, self._autoscale],
            weights=[4, 3, 1, 1, 3],
        )[0]
        change(seen, now_ms)

    def _create(self, now_ms: int) -> None:
        self._made += 1
        made = stored_deployment(
            self._made, replicas=self._chance.randint(0, REPLICAS_MAX), created_at_ms=now_ms
        )
        devices = self._chance.choice([0, 0, 1])
        memory = self._chance.randint(1, 5) * GIB
        made = replace(made, spec=replace(made.spec, devices=devices, memory_bytes=memory))
        self._tell(f"user creates {made.name}: {made.spec.replicas} replicas, {devices} devices")
        self._db.write(lambda tx: deployments.insert(tx, made))

    def _autoscale(self, seen: Deployment, now_ms: int) -> None:
        """Let it scale by itself, within bounds or others than before, or no more."""
        if seen.spec.autoscale is not None and self._chance.random() < 0.3:
            self._tell(f"user ends autoscaling of {seen.name}")
            spec = replace(seen.spec, replicas=seen.wanted_replicas, autoscale=None)
            self._update(seen, replace(seen, spec=spec, scale=None))
            return
        least = self._chance.choice([0, 0, 1])
        most = self._chance.randint(max(1, least), REPLICAS_MAX)
        auto = AutoscaleSpec(
            least,
            most,
            requests_in_flight=self._chance.randint(1, 6),
            idle_ms=IDLE_MS,
            up_cooldown_ms=UP_COOLDOWN_MS,
            down_cooldown_ms=DOWN_COOLDOWN_MS,
        )
        self._tell(f"user has {seen.name} scale from {least} to {most}")
        spec = replace(seen.spec, replicas=seen.wanted_replicas, autoscale=auto)
        scale = first_scale(auto, spec.replicas, now_ms)
        self._update(seen, replace(seen, spec=spec, scale=scale))

    def _scale(self, seen: Deployment, now_ms: int) -> None:
        if seen.spec.autoscale is not None:
            return
        spec = replace(seen.spec, replicas=self._chance.randint(0, REPLICAS_MAX))
        self._tell(f"user scales {seen.name} to {spec.replicas}")
        self._update(seen, replace(seen, spec=spec))

    def _patch(self, seen: Deployment, now_ms: int) -> Deployment:
        parallel = seen.spec.parallel + 1
        self._tell(f"user patches {seen.name}: generation {seen.generation + 1}")
        spec = replace(seen.spec, parallel=parallel)
        return self._update(seen, replace(seen, spec=spec, generation=seen.generation + 1))

    def _patch_twice(self, seen: Deployment, now_ms: int) -> None:
        self._patch(self._patch(seen, now_ms), now_ms)

    def _delete(self, seen: Deployment, now_ms: int) -> None:
        self._tell(f"user deletes {seen.name}")
        self._update(seen, replace(seen, deleted_at_ms=now_ms))

    def _update(self, seen: Deployment, new: Deployment) -> Deployment:
        return self._db.write(lambda tx: deployments.update(tx, seen, new))
