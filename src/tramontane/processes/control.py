"""``tramontane control``: the management API and the reconcilers, wired together.

Ends on SIGTERM and leaves the engines alone, so that it can be restarted under load. Under
``tramontane up`` (it was given a socket), SIGINT means that the whole machine stops: then every
replica is drained before it ends.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

import tramontane
from tramontane.api.app import create_app
from tramontane.api.revision_watch import RevisionWatch
from tramontane.domain.jobs.retention import Retention, retention_of_days
from tramontane.domain.launch import PYTHON
from tramontane.domain.refusal import RefusedError
from tramontane.domain.replica import Replica
from tramontane.drivers.accounts import Accounts
from tramontane.drivers.base import DriverUnavailableError
from tramontane.engines.recipes import make_recipes
from tramontane.processes.attempt_logs import DriverLogs
from tramontane.processes.clusters import make_clusters
from tramontane.processes.startup import (
    FATAL_EXIT,
    inherited_or_listen,
    origin,
    refuse,
    say,
)
from tramontane.reconcilers.accounts import INTERVAL_S, AccountsReconciler
from tramontane.reconcilers.autoscale import AutoscaleReconciler
from tramontane.reconcilers.health import HealthReconciler
from tramontane.reconcilers.jobs.reconciler import JobReconciler
from tramontane.reconcilers.jobs.retention import RetentionReconciler
from tramontane.reconcilers.loop import Loop
from tramontane.reconcilers.metering import MeteringReconciler
from tramontane.reconcilers.replicas import ReplicaReconciler
from tramontane.reconcilers.responses import ResponsesReconciler
from tramontane.reconcilers.routes import RouteReconciler
from tramontane.runtime import logs
from tramontane.runtime.clock import SystemClock, SystemIds
from tramontane.runtime.home import Credentials, Home, HomeError, Secrets
from tramontane.runtime.parent import die_with_parent
from tramontane.runtime.settings import Settings, SettingsError, load
from tramontane.services.all import make_services
from tramontane.services.bootstrap import DEMO_NAME, Bootstrap, Bootstrapped
from tramontane.services.quotas.bounds import devices_max_for
from tramontane.store import deployments, fleet, tenancy
from tramontane.store.db import Database, NewerSchemaError, StoreUnavailableError
from tramontane.store.quotas import class_prices

log = logging.getLogger(__name__)

# Usage is exact without it; rolling up only keeps the totals quick.
_METERING_INTERVAL_S: Final = 5.0
# A route or a revoked key that no reconciler was woken for is noticed within this.
_ROUTES_INTERVAL_S: Final = 2.0
# A response whose gateway is gone is told as failed this much after the silence that proves it.
_RESPONSES_INTERVAL_S: Final = 5.0
# What was kept long enough goes this much later; a deleted job's files at once.
_RETENTION: Final = "retention"
_RETENTION_INTERVAL_S: Final = 15.0
# A wish to drain or resume a node is carried out within this.
_HEALTH_INTERVAL_S: Final = 4.0
_FINISH_REQUESTS_S: Final = 5
_TICK_S: Final = 1.0
_DEMO_FILE: Final = Path("models", "demo", "tramontane-demo-q8_0.gguf")


def run(  # noqa: PLR0917 - the command line's options, in its order
    home: Path | None,
    fd: int | None,
    parent_pid: int | None,
    host: str | None,
    port: int | None,
    database_url: str | None,
) -> int:
    """Run until told to stop; with ``fd``, serve on that listening socket and end with the parent.

    Returns the exit status: `FATAL_EXIT` when a restart could not help.
    """
    if fd is not None:
        die_with_parent(parent_pid)
    try:
        settings = load({"home": home, "host": host, "port": port, "database_url": database_url})
        folder = Home(settings.home)
        is_new = fd is None and not folder.has_secrets
        if fd is None:
            folder.prepare()
        secrets = folder.secrets()
        path = folder.logs / "control.log"
        logs.configure(settings.log_level, path, form=settings.log_format, process="control")
        with contextlib.closing(Database(settings.database_url)) as db:
            db.migrate()
            if is_new:
                _check_is_first(folder, db)
            control = _ControlPlane(settings, folder, secrets, db)
            control.bootstrap()
            listener = inherited_or_listen(fd, settings.host, settings.port)
            return control.serve(listener, drain=fd is not None)
    except (SettingsError, HomeError, NewerSchemaError, RefusedError) as error:
        return refuse(str(error), FATAL_EXIT)
    except (StoreUnavailableError, OSError) as error:
        return refuse(str(error), 1)


def _check_is_first(home: Home, db: Database) -> None:
    """Refuse to start with new secrets over what other secrets made: no key would work."""
    with db.read() as tx:
        has_begun = bool(tenancy.list_organizations(tx, limit=1))
    if has_begun:
        home.drop_secrets()
        msg = (
            f"the database has an installation, and {home.path} has no secrets.json: "
            "copy that file from the home of the installation's first control plane"
        )
        raise HomeError(msg)


class _ControlPlane:
    """Every part of the control plane, and how they know each other."""

    def __init__(self, settings: Settings, home: Home, secrets: Secrets, db: Database) -> None:
        self._settings = settings
        self._home = home
        self._db = db
        self._clock = SystemClock()
        self._ids = ids = SystemIds()
        hmac_key = bytes.fromhex(secrets.hmac_key)
        clusters = make_clusters(settings, home.path, secrets.installation_id, self._clock)
        self._drivers = clusters.drivers
        python = str(settings.vllm_python or PYTHON)
        recipes = make_recipes(vllm_python=python, in_whole_units=bool(settings.slurm))
        holder = f"{socket.gethostname()}-{secrets.installation_id}"
        self._replicas = ReplicaReconciler(
            db,
            self._drivers,
            recipes,
            self._clock,
            ids,
            wake_routes=self._wake_routes,
            report=say,
            sites=clusters.sites,
        )
        self._watch: RevisionWatch | None = None
        self._account_loop: Loop | None = None
        routes = RouteReconciler(
            db, self._clock, secrets.hmac_key, self._probe, announce=self._announce
        )
        self._jobs = JobReconciler(
            db, self._drivers, self._clock, ids, quota=devices_max_for, charge=class_prices.charge
        )
        autoscale = AutoscaleReconciler(db, self._clock, wake=self._wake_converging)
        interval_s = settings.reconcile_interval_ms / 1000
        self._replica_loop = self._loop("replicas", self._replicas.step, interval_s, holder)
        pause = partial(self._jobs.pause_s, interval_s)
        self._job_loop = self._loop("jobs", self._jobs.step, pause, holder)
        self._route_loop = self._loop("routes", routes.step, _ROUTES_INTERVAL_S, holder)
        self._autoscale_loop = self._loop("autoscale", autoscale.step, autoscale.pause_s, holder)
        self._loops = (
            self._replica_loop,
            self._job_loop,
            self._route_loop,
            self._autoscale_loop,
            *self._keeping_loops(holder),
            *self._account_loops(clusters.accounts, holder),
        )
        self._services = make_services(
            retention=_retention_of(settings),
            wake_retention=self._wake_retention,
            db=db,
            clock=self._clock,
            ids=ids,
            hmac_key=hmac_key,
            recipes=recipes,
            models_root=settings.models_root,
            logs=self._lines_of,
            attempt_logs=DriverLogs(db, self._drivers),
            plan=self._replicas.report_plan,
            wake=self._wake,
            wake_autoscale=self._autoscale_loop.wake,
            wake_jobs=self._job_loop.wake,
            wake_accounts=self._wake_accounts,
            engine_networks={cluster.name: cluster.networks for cluster in settings.slurm},
        )
        self._bootstrap = self._make_bootstrap(hmac_key)
        self._gateway_token = secrets.gateway_token
        self._probed_project: str | None = None

    def bootstrap(self) -> None:
        """Make what a first start needs; renew the first keys when their texts were lost."""
        made = self._bootstrap.run()
        self._probed_project = made.project.id
        known = self._home.read_credentials()
        keys = made.keys
        if keys is None and known is None:
            keys = self._bootstrap.reissue_keys()
            say(f"{self._home.credentials_path} was missing: the first keys were renewed")
        api_key = keys.api_key if keys else known.api_key if known else ""
        admin_key = keys.admin_key if keys else known.admin_key if known else ""
        wanted = self._credentials(made, api_key, admin_key)
        if wanted != known:
            self._home.write_credentials(wanted)

    def serve(self, listener: socket.socket, *, drain: bool) -> int:
        """Serve until a signal; on SIGINT and with ``drain``, stop what runs before the end."""
        app = create_app(self._services, gateway_token=self._gateway_token, ids=self._ids)
        server = _Server(app)
        self._watch = app.state.revision_watch
        for loop in self._loops:
            loop.start()
        gc.freeze()
        server.run(sockets=[listener])
        for loop in self._loops:
            loop.stop()
        if drain and server.stopped_by == signal.SIGINT:
            timeout_s = self._settings.drain_timeout_s
            own = {name: driver for name, driver in self._drivers.items() if not driver.queues}
            left = (*self._jobs.drain_all(own, timeout_s), *self._replicas.drain_all(timeout_s))
            if left:
                say(f"{len(left)} replicas or attempts did not confirm their end")
        return 0

    def _make_bootstrap(self, hmac_key: bytes) -> Bootstrap:
        return Bootstrap(
            db=self._db,
            clock=self._clock,
            ids=self._ids,
            hmac_key=hmac_key,
            models=self._services.models,
            deployments=self._services.deployments,
            demo_model=_demo_model(self._settings),
        )

    def _loop(
        self,
        name: str,
        step: Callable[[], bool],
        interval_s: float | Callable[[], float],
        holder: str,
    ) -> Loop:
        return Loop(name, step, interval_s, db=self._db, clock=self._clock, holder=holder)

    def _keeping_loops(self, holder: str) -> tuple[Loop, ...]:
        """Return the loops that nobody wakes: they look after what is kept."""
        metering = MeteringReconciler(self._db, self._clock)
        keep_days = self._settings.responses_keep_days
        responses = ResponsesReconciler(self._db, self._clock, keep_days=keep_days)
        health = HealthReconciler(
            self._db,
            self._drivers,
            self._clock,
            failures_max=self._settings.node_failures_max,
        )
        retention = RetentionReconciler(
            self._db, self._drivers, self._clock, _retention_of(self._settings)
        )
        return (
            self._loop(_RETENTION, retention.step, _RETENTION_INTERVAL_S, holder),
            self._loop("health", health.step, _HEALTH_INTERVAL_S, holder),
            self._loop("metering", metering.step, _METERING_INTERVAL_S, holder),
            self._loop("responses", responses.step, _RESPONSES_INTERVAL_S, holder),
        )

    def _account_loops(self, ports: Mapping[str, Accounts], holder: str) -> tuple[Loop, ...]:
        """Return the loop that keeps the accounts of clusters, if any has them."""
        if not ports:
            return ()
        accounts = AccountsReconciler(self._db, ports, self._clock)
        self._account_loop = self._loop("accounts", accounts.step, INTERVAL_S, holder)
        return (self._account_loop,)

    def _wake(self) -> None:
        self._wake_converging()
        self._autoscale_loop.wake()

    def _wake_retention(self) -> None:
        next(loop for loop in self._loops if loop.name == _RETENTION).wake()

    def _wake_accounts(self) -> None:
        if self._account_loop is not None:
            self._account_loop.wake()

    def _wake_converging(self) -> None:
        self._replica_loop.wake()
        self._route_loop.wake()

    def _wake_routes(self) -> None:
        self._route_loop.wake()

    def _announce(self, revision: int) -> None:
        if self._watch is not None:
            self._watch.tell(revision)

    def _probe(self) -> str | None:
        if self._probed_project is None:
            return None
        with self._db.read() as tx:
            demo = deployments.get_for(tx, self._probed_project, DEMO_NAME)
        return demo.id if demo else None

    def _lines_of(self, replica: Replica, lines_max: int) -> Sequence[str] | None:
        with self._db.read() as tx:
            clusters = fleet.list_clusters(tx)
        names = {cluster.id: cluster.name for cluster in clusters}
        driver = self._drivers.get(names.get(replica.cluster_id, ""))
        if driver is None:
            return None
        try:
            return driver.logs(replica.id, lines_max)
        except DriverUnavailableError as error:
            log.warning("the logs of %s cannot be read now: %s", replica.id, error)
            return None

    def _credentials(self, made: Bootstrapped, api_key: str, admin_key: str) -> Credentials:
        settings = self._settings
        url = origin(settings.host, settings.port, is_tls=settings.tls_certificate is not None)
        return Credentials(
            base_url=f"{url}/v1",
            api_key=api_key,
            admin_key=admin_key,
            console_url=f"{url}/console",
            organization=made.organization.name,
            project=made.project.name,
        )


class _Server(uvicorn.Server):
    """uvicorn with our signals, and ticking once a second rather than ten times.

    It remembers which signal asked it to stop.
    """

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_FINISH_REQUESTS_S,
            )
        )
        self.stopped_by: int | None = None
        self._end_waits: Callable[[], None] = app.state.revision_watch.close
        self._wake_loop: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        yield

    async def main_loop(self) -> None:
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        self._wake_loop = lambda: loop.call_soon_threadsafe(stopped.set)
        while not await self.on_tick(0):  # renews the Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _TICK_S)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.stopped_by = number
        self.should_exit = True
        self._end_waits()
        self._wake_loop()


def _retention_of(settings: Settings) -> Retention:
    return retention_of_days(settings.job_files_keep_days, settings.jobs_keep_days)


def _demo_model(settings: Settings) -> Path | None:
    if not settings.demo:
        return None
    shipped = Path(tramontane.__file__).parents[2] / _DEMO_FILE
    chosen = settings.demo_model or shipped
    if settings.demo_model is None and not shipped.exists():
        say("the demo model did not come with this installation; set demo_model to deploy one")
        return None
    return chosen
