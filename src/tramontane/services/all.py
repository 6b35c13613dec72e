"""Every service of the control plane, built once and handed to the API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tramontane.domain.jobs.retention import Retention
from tramontane.engines.recipe import EngineRecipe
from tramontane.runtime.clock import Clock, IdSource
from tramontane.services.api_keys import ApiKeys
from tramontane.services.authentication import Authentication
from tramontane.services.deployments.canaries import Canaries
from tramontane.services.deployments.specs import SpecWriter
from tramontane.services.deployments.use_cases import Deployments
from tramontane.services.events import Events
from tramontane.services.fleet import Fleet
from tramontane.services.gateways import Demands, RouteTables
from tramontane.services.jobs.logs import AttemptLogs, JobLogs
from tramontane.services.jobs.use_cases import Jobs
from tramontane.services.models import Models
from tramontane.services.organizations import Organizations
from tramontane.services.projects import Projects
from tramontane.services.quotas.reservations import Reservations
from tramontane.services.quotas.use_cases import Quotas
from tramontane.services.replicas import DeploymentLogs, LogSource, Replicas
from tramontane.services.reports.runners import RunnerReports
from tramontane.services.responses import Responses
from tramontane.services.spending.attempts import AttemptBills
from tramontane.services.spending.class_prices import ClassPrices
from tramontane.services.spending.limits import Limits
from tramontane.services.spending.prices import Prices
from tramontane.services.spending.slices import Slices
from tramontane.services.usage import Usage
from tramontane.store.db import Database

# Returns {"snapshot": {...}, "plan": {...}} as plain data: what the reconciler would do now.
PlanSource = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Services:
    """One service per noun."""

    authentication: Authentication
    organizations: Organizations
    projects: Projects
    api_keys: ApiKeys
    models: Models
    deployments: Deployments
    canaries: Canaries
    replicas: Replicas
    logs: DeploymentLogs
    jobs: Jobs
    job_logs: JobLogs
    fleet: Fleet
    usage: Usage
    limits: Limits
    prices: Prices
    class_prices: ClassPrices
    attempt_bills: AttemptBills
    quotas: Quotas
    reservations: Reservations
    slices: Slices
    responses: Responses
    events: Events
    route_tables: RouteTables
    demands: Demands
    runner_reports: RunnerReports
    plan: PlanSource


def make_services(
    *,
    db: Database,
    clock: Clock,
    ids: IdSource,
    hmac_key: bytes,
    recipes: Mapping[str, EngineRecipe],
    models_root: Path | None,
    logs: LogSource,
    attempt_logs: AttemptLogs,
    plan: PlanSource,
    wake: Callable[[], None],
    wake_autoscale: Callable[[], None] = lambda: None,
    wake_jobs: Callable[[], None] = lambda: None,
    wake_retention: Callable[[], None] = lambda: None,
    wake_accounts: Callable[[], None] = lambda: None,
    engine_networks: Mapping[str, tuple[str, ...]] | None = None,
    retention: Retention | None = None,
) -> Services:
    """Return the services over ``db``. Waking must be quick: it is done by request threads."""
    writer = SpecWriter(clock, recipes)
    return Services(
        authentication=Authentication(db, clock, hmac_key),
        organizations=Organizations(db, clock, ids, wake, wake_accounts),
        projects=Projects(db, clock, ids, wake, wake_accounts),
        api_keys=ApiKeys(db, clock, ids, hmac_key, wake),
        models=Models(db, clock, ids, models_root),
        deployments=Deployments(db, clock, ids, writer, wake),
        canaries=Canaries(db, clock, ids, writer, wake),
        replicas=Replicas(db),
        logs=DeploymentLogs(db, logs),
        jobs=Jobs(
            db,
            clock,
            ids,
            wake_jobs,
            retention=retention or Retention(),
            wake_retention=wake_retention,
        ),
        job_logs=JobLogs(db, attempt_logs),
        fleet=Fleet(db, clock, wake),
        usage=Usage(db, clock),
        limits=Limits(db, clock, ids, wake),
        prices=Prices(db, clock, wake),
        class_prices=ClassPrices(db, clock),
        attempt_bills=AttemptBills(db, clock),
        quotas=Quotas(db, clock, ids, wake_accounts),
        reservations=Reservations(db, clock, ids, wake_accounts),
        slices=Slices(db, clock),
        responses=Responses(db, clock),
        events=Events(db),
        route_tables=RouteTables(db),
        demands=Demands(db, clock, wake_autoscale),
        runner_reports=RunnerReports(db, clock, wake, wake_jobs, engine_networks),
        plan=plan,
    )
