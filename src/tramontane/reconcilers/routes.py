"""The routes reconciler: publishes what gateways need to know, whenever it changed."""

from collections.abc import Callable
from dataclasses import replace

from tramontane.domain.catalog import Capabilities
from tramontane.domain.deployment import Deployment
from tramontane.domain.planning.route_plan import RouteSnapshot, plan_routes
from tramontane.domain.routing import RouteTable
from tramontane.engines.recipes import RECIPES
from tramontane.reconcilers.needs import Recipes, Versions, read_versions
from tramontane.runtime.clock import Clock
from tramontane.store import deployments, replicas, routes, tenancy
from tramontane.store.db import Database, Transaction
from tramontane.store.spending import limits, prices


class RouteReconciler:
    """Keeps the published route table equal to what is recorded.

    ``hmac_key`` is what gateways hash keys with. ``probe`` returns the id of the deployment that
    ``/ready`` asks about, or None. ``announce`` is called with each revision that was published,
    so that gateways that wait on this process need not wait for its next look.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        hmac_key: str,
        probe: Callable[[], str | None] = lambda: None,
        *,
        announce: Callable[[int], None] = lambda _revision: None,
        recipes: Recipes = RECIPES,
    ) -> None:
        self._db = db
        self._clock = clock
        self._hmac_key = hmac_key
        self._probe = probe
        self._announce = announce
        self._recipes = recipes
        self._versions: Versions = {}
        self._published: RouteTable | None = None

    def step(self) -> bool:
        """Publish if anything changed; return False, as nothing is ever left under way."""
        now_ms, probe_id = self._clock.now_ms(), self._probe()
        with self._db.read() as tx:
            table = self._table(tx, now_ms, probe_id)
            revision = routes.current_revision(tx)
        known = self._published
        if known is not None and replace(table, revision=revision) == known:
            return False
        # Made again inside the transaction: a pass that was slow must not publish what is old.
        self._published = self._db.write(
            lambda tx: routes.publish(tx, self._table(tx, now_ms, probe_id))
        )
        self._announce(self._published.revision)
        return False

    def _table(self, tx: Transaction, now_ms: int, probe_id: str | None) -> RouteTable:
        live = deployments.list_live(tx)
        self._versions = read_versions(tx, live, self._versions)
        return plan_routes(
            RouteSnapshot(
                now_ms=now_ms,
                hmac_key=self._hmac_key,
                keys=tuple(tenancy.list_usable_api_keys(tx, now_ms)),
                deployments=tuple(live),
                replicas=tuple(replicas.list_holding(tx)),
                probe_deployment_id=probe_id,
                organizations=tuple(tenancy.list_blocked_or_storing(tx)),
                limits=tuple(limits.ROWS.list_all(tx)),
                prices=prices.by_version(tx),
                capabilities=self._capabilities(live),
            )
        )

    def _capabilities(self, live: list[Deployment]) -> dict[str, Capabilities]:
        """Return what each deployment's engine can be asked with its weights."""
        told: dict[str, Capabilities] = {}
        for deployment in live:
            version = self._versions.get(deployment.spec.model_version_id)
            recipe = self._recipes.get(deployment.spec.engine)
            if version is not None and recipe is not None:
                told[deployment.id] = recipe.capabilities(deployment.spec, version)
        return told
