"""The tables, as the newest migration leaves them.

Integers are 64 bits wide: times are milliseconds since 1970 UTC, sizes are bytes, booleans are 0
or 1. Nested values are JSON texts, written and read by `codec` alone. Each list order has an
index that serves it. SQLite tables are STRICT, so that a wrong type fails there as it does on
PostgreSQL.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    literal_column,
    or_,
    text,
)
from sqlalchemy.sql.elements import ColumnElement

# SQLite's row id is an INTEGER and STRICT tables know no BIGINT; both hold 64 bits there.
Int64: Final = BigInteger().with_variant(Integer(), "sqlite")

metadata: Final = MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "fk": "fk_%(table_name)s_%(column_0_name)s"}
)


def _table(name: str, *columns: Column[Any], autoincrement: bool = False) -> Table:
    return Table(name, metadata, *columns, sqlite_strict=True, sqlite_autoincrement=autoincrement)


def _id() -> Column[str]:
    return Column("id", Text, primary_key=True)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _text_or_null(name: str) -> Column[str | None]:
    return Column(name, Text, nullable=True)


def _int(name: str) -> Column[int]:
    return Column(name, Int64, nullable=False)


def _count(name: str) -> Column[int]:
    # What a later revision added to a table with rows: they begin at 0.
    return Column(name, Int64, nullable=False, server_default=text("0"))


def _int_or_null(name: str) -> Column[int | None]:
    return Column(name, Int64, nullable=True)


def _reference(name: str, target: str) -> Column[str]:
    return Column(name, Text, ForeignKey(f"{target}.id"), nullable=False)


organizations: Final = _table(
    "organizations",
    _id(),
    _text("name"),
    _int("created_at_ms"),
    _int("revision"),
    _count("may_store_responses"),
    _int_or_null("blocked_at_ms"),
)
Index("uq_organizations_name", organizations.c.name, unique=True)
Index("ix_organizations_order", organizations.c.created_at_ms, organizations.c.id)

projects: Final = _table(
    "projects",
    _id(),
    _reference("organization_id", "organizations"),
    _text("name"),
    _int("created_at_ms"),
    _int_or_null("archived_at_ms"),
    _int("revision"),
    _int_or_null("blocked_at_ms"),
    _count("is_strict"),
    _text_or_null("allowed_models"),
)
Index("uq_projects_name", projects.c.organization_id, projects.c.name, unique=True)
Index("ix_projects_order", projects.c.created_at_ms, projects.c.id)
Index(
    "ix_projects_organization_order",
    projects.c.organization_id,
    projects.c.created_at_ms,
    projects.c.id,
)

api_keys: Final = _table(
    "api_keys",
    _id(),
    _reference("project_id", "projects"),
    _text("name"),
    _text("role"),
    _text("key_hash"),
    _text("redacted"),
    _int("created_at_ms"),
    _int_or_null("expires_at_ms"),
    _int_or_null("revoked_at_ms"),
    _int("revision"),
    _int_or_null("blocked_at_ms"),
    _text_or_null("allowed_models"),
)
Index("uq_api_keys_key_hash", api_keys.c.key_hash, unique=True)
Index("ix_api_keys_order", api_keys.c.created_at_ms, api_keys.c.id)
Index("ix_api_keys_project_order", api_keys.c.project_id, api_keys.c.created_at_ms, api_keys.c.id)

# A limit without a model has the empty name, so that the index sees two of them.
limits: Final = _table(
    "limits",
    _id(),
    _text("scope"),
    _text("subject_id"),
    _text("model"),
    _int_or_null("requests_per_minute_max"),
    _int_or_null("tokens_per_minute_max"),
    _int_or_null("requests_in_flight_max"),
    _int_or_null("budget_micro"),
    _int("created_at_ms"),
)
Index("uq_limits_subject", limits.c.subject_id, limits.c.model, unique=True)
Index("ix_limits_order", limits.c.created_at_ms, limits.c.id)

# What is leased out of limits: see `domain.slices`. None of it outlives its limit or its holder.
slice_holders: Final = _table(
    "slice_holders",
    Column("holder", Text, primary_key=True),
    _text("gateway"),
    _int("sequence"),
    _int("seen_ms"),
    _int("awake_ms"),
    _int("lease"),
    _int("is_lapsed"),
    _text_or_null("reply"),
)
slice_windows: Final = _table(
    "slice_windows",
    Column("limit_id", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    _int("number"),
    _int("start_ms"),
    _int("end_ms"),
    _int("granted"),
    _int("lent_until_ms"),
)
slice_holds: Final = _table(
    "slice_holds",
    Column("limit_id", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("period", Int64, primary_key=True, autoincrement=False),
    Column("holder", Text, primary_key=True),
    _int("lease"),
    _int("amount"),
)
Index("ix_slice_holds_holder", slice_holds.c.holder)
budget_spending: Final = _table(
    "budget_spending",
    Column("limit_id", Text, primary_key=True),
    Column("period", Int64, primary_key=True, autoincrement=False),
    _int("spent_nano"),
)

models: Final = _table("models", _id(), _text("name"), _int("created_at_ms"), _int("revision"))
Index("uq_models_name", models.c.name, unique=True)
Index("ix_models_order", models.c.created_at_ms, models.c.id)

model_versions: Final = _table(
    "model_versions",
    _id(),
    _reference("model_id", "models"),
    _int("number"),
    _text("format"),
    _text("path"),
    _text("digest"),
    _int("size_bytes"),
    _text("architecture"),
    _int("context_length"),
    _text("precision"),
    _text("licence"),
    _int("created_at_ms"),
    _int_or_null("parameters"),
    _text_or_null("capabilities"),
    _text_or_null("base_model_id"),
    _int_or_null("adapter_rank"),
)
Index("uq_model_versions_number", model_versions.c.model_id, model_versions.c.number, unique=True)

# A model without a row is free.
prices: Final = _table(
    "prices",
    Column("model_id", Text, ForeignKey("models.id"), primary_key=True),
    _int("prompt_micro"),
    _int("completion_micro"),
    _int_or_null("cached_micro"),
    _int("request_micro"),
    _int("changed_at_ms"),
)

clusters: Final = _table(
    "clusters",
    _id(),
    _text("name"),
    _text("driver"),
    _text("status"),
    _int("created_at_ms"),
    _text_or_null("reason"),
    _int("revision"),
)
Index("uq_clusters_name", clusters.c.name, unique=True)

nodes: Final = _table(
    "nodes",
    _id(),
    _reference("cluster_id", "clusters"),
    _text("name"),
    _text("status"),
    _text("capacity"),
    _text("devices"),
    _int("last_seen_at_ms"),
    _int("revision"),
)
Index("uq_nodes_name", nodes.c.cluster_id, nodes.c.name, unique=True)

# `model_version_id` repeats the spec's, so that "who uses this model" is a look-up. It refers to
# no row: a deleted deployment keeps its story after its model is gone.
deployments: Final = _table(
    "deployments",
    _id(),
    _reference("project_id", "projects"),
    _text("name"),
    _text("model_version_id"),
    _text("spec"),
    _int("generation"),
    _int("created_at_ms"),
    _int("observed_generation"),
    _text("status"),
    _int("ready_replicas"),
    _text_or_null("reason"),
    _int("failures"),
    _int("retry_at_ms"),
    _int("start_ms"),
    _int_or_null("deleted_at_ms"),
    _int("revision"),
    _text_or_null("scale"),
    _text_or_null("canary"),
)

# Partial indexes serve only queries that repeat their condition word by word, so the conditions
# are built here, once, from literals and never from bound parameters.
DEPLOYMENT_IS_NAMED: Final[ColumnElement[bool]] = deployments.c.deleted_at_ms.is_(None)
DEPLOYMENT_IS_LIVE: Final[ColumnElement[bool]] = or_(
    deployments.c.deleted_at_ms.is_(None), deployments.c.status != literal_column("'stopped'")
)
Index(
    "uq_deployments_name",
    deployments.c.project_id,
    deployments.c.name,
    unique=True,
    sqlite_where=DEPLOYMENT_IS_NAMED,
    postgresql_where=DEPLOYMENT_IS_NAMED,
)
Index(
    "ix_deployments_live_order",
    deployments.c.created_at_ms,
    deployments.c.id,
    sqlite_where=DEPLOYMENT_IS_LIVE,
    postgresql_where=DEPLOYMENT_IS_LIVE,
)
Index(
    "ix_deployments_project_live_order",
    deployments.c.project_id,
    deployments.c.created_at_ms,
    deployments.c.id,
    sqlite_where=DEPLOYMENT_IS_LIVE,
    postgresql_where=DEPLOYMENT_IS_LIVE,
)
Index("ix_deployments_model_version", deployments.c.model_version_id)

replicas: Final = _table(
    "replicas",
    _id(),
    _reference("deployment_id", "deployments"),
    _reference("project_id", "projects"),
    _int("generation"),
    _text("status"),
    _reference("cluster_id", "clusters"),
    _reference("node_id", "nodes"),
    _text("launch"),
    _text("secret"),
    _int("created_at_ms"),
    _int("changed_at_ms"),
    _text_or_null("address"),
    _int_or_null("ready_at_ms"),
    _text_or_null("reason"),
    _int("revision"),
)
REPLICA_HOLDS_CAPACITY: Final[ColumnElement[bool]] = replicas.c.status.not_in(
    [literal_column("'stopped'"), literal_column("'failed'")]
)
Index(
    "ix_replicas_holding_order",
    replicas.c.created_at_ms,
    replicas.c.id,
    sqlite_where=REPLICA_HOLDS_CAPACITY,
    postgresql_where=REPLICA_HOLDS_CAPACITY,
)
Index("ix_replicas_order", replicas.c.created_at_ms, replicas.c.id)
Index("ix_replicas_project_order", replicas.c.project_id, replicas.c.created_at_ms, replicas.c.id)
Index(
    "ix_replicas_deployment_order",
    replicas.c.deployment_id,
    replicas.c.created_at_ms,
    replicas.c.id,
)

# What each gateway last said of the demand; nothing refers to it and old rows are dropped.
demands: Final = _table(
    "demands",
    Column("holder", Text, primary_key=True),
    Column("deployment_id", Text, primary_key=True),
    _text("gateway"),
    _int("requests_in_flight"),
    _int("requests_queued"),
    _int("tokens_per_s"),
    _int("idle_ms"),
    _int("at_ms"),
)

# Events refer to nothing: a story outlives its subject.
events: Final = _table(
    "events",
    Column("sequence", Int64, primary_key=True, autoincrement=True),
    _int("at_ms"),
    _text("subject_id"),
    _text_or_null("project_id"),
    _text("kind"),
    _text("message"),
    _text("actor"),
    _text("data"),
    autoincrement=True,
)
Index("ix_events_subject_order", events.c.subject_id, events.c.sequence)
Index("ix_events_project_order", events.c.project_id, events.c.sequence)

# One row: the current route table.
route_tables: Final = _table(
    "route_tables",
    Column("id", Int64, primary_key=True, autoincrement=False),
    _int("revision"),
    _text("content"),
)

leases: Final = _table(
    "leases", Column("name", Text, primary_key=True), _text("holder"), _int("expires_at_ms")
)

# Usage events refer to nothing: they outlive projects, deployments and models. They are written
# once and never changed.
usage_events: Final = _table(
    "usage_events",
    Column("sequence", Int64, primary_key=True, autoincrement=True),
    _text("id"),
    _text("request_id"),
    _text("organization_id"),
    _text("project_id"),
    _text("api_key_id"),
    _text("deployment_id"),
    _text("replica_id"),
    _text("model"),
    _text("endpoint"),
    _text("outcome"),
    _int("status"),
    _int("is_stream"),
    _int("prompt_tokens"),
    _int("completion_tokens"),
    _int("cached_tokens"),
    _text("token_source"),
    _int("started_at_ms"),
    _int("duration_ms"),
    _int_or_null("first_byte_ms"),
    _text("gateway"),
    _int("accepted_at_ms"),
    _count("cost_nano"),
    Column("holder", Text, nullable=False, server_default=text("''")),
    autoincrement=True,
)
Index("uq_usage_events_id", usage_events.c.id, unique=True)
Index("ix_usage_events_project_order", usage_events.c.project_id, usage_events.c.sequence)
Index("ix_usage_events_project_start", usage_events.c.project_id, usage_events.c.started_at_ms)
Index("ix_usage_events_start", usage_events.c.started_at_ms)

usage_totals: Final = _table(
    "usage_totals",
    Column("hour_ms", Int64, primary_key=True, autoincrement=False),
    Column("project_id", Text, primary_key=True),
    Column("api_key_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    _int("requests"),
    _int("prompt_tokens"),
    _int("completion_tokens"),
    _int("cached_tokens"),
    _count("cost_nano"),
)
Index("ix_usage_totals_project_hour", usage_totals.c.project_id, usage_totals.c.hour_ms)

# At most one row: every usage event up to this sequence is in `usage_totals`, no later one is.
usage_roll_up: Final = _table(
    "usage_roll_up",
    Column("id", Int64, primary_key=True, autoincrement=False),
    _int("rolled_sequence"),
    _int("rolled_at_ms"),
)

# Responses that organizations allow to be kept. They refer to nothing: `previous_id` may name one
# that was deleted. `body` and `input_items` are JSON texts.
responses: Final = _table(
    "responses",
    _id(),
    _text("organization_id"),
    _text("project_id"),
    _text("api_key_id"),
    _text("status"),
    _int("is_background"),
    _text("holder"),
    _text_or_null("previous_id"),
    _text("body"),
    _text("input_items"),
    _int("size_bytes"),
    _int("created_at_ms"),
    _int("seen_at_ms"),
    _int("revision"),
)
RESPONSE_IS_UNFINISHED: Final[ColumnElement[bool]] = responses.c.status.in_(
    [literal_column("'queued'"), literal_column("'in_progress'")]
)
Index("ix_responses_order", responses.c.created_at_ms, responses.c.id)
Index(
    "ix_responses_project_order",
    responses.c.project_id,
    responses.c.created_at_ms,
    responses.c.id,
)
Index(
    "ix_responses_unfinished",
    responses.c.seen_at_ms,
    sqlite_where=RESPONSE_IS_UNFINISHED,
    postgresql_where=RESPONSE_IS_UNFINISHED,
)
