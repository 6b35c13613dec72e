"""What simulated users do: create, scale, patch and delete deployments, at random."""

import random
from collections.abc import Callable
from dataclasses import replace

from tests.support.planning import GIB, stored_deployment
from tramontane.domain.deployment import Deployment
from tramontane.store import deployments
from tramontane.store.db import Database

DEPLOYMENTS_MAX = 4
REPLICAS_MAX = 3


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
            [self._scale, self._patch, self._patch_twice, self._delete], weights=[4, 3, 1, 1]
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

    def _scale(self, seen: Deployment, now_ms: int) -> None:
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
