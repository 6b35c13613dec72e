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


def make_table(name: str, *columns: Column[Any], autoincrement: bool = False) -> Table:
    """Return a table of `metadata`; SQLite's is STRICT."""
    return Table(name, metadata, *columns, sqlite_strict=True, sqlite_autoincrement=autoincrement)


def id_column() -> Column[str]:
    """Return the column that holds an id and is the key."""
    return Column("id", Text, primary_key=True)


def text_column(name: str) -> Column[str]:
    """Return a text."""
    return Column(name, Text, nullable=False)


def text_or_null(name: str) -> Column[str | None]:
    """Return a text that may be absent."""
    return Column(name, Text, nullable=True)


def int_column(name: str) -> Column[int]:
    """Return a whole number of 64 bits."""
    return Column(name, Int64, nullable=False)


def count_column(name: str) -> Column[int]:
    """Return a number that a later revision added to rows there were: they begin at 0."""
    return Column(name, Int64, nullable=False, server_default=text("0"))


def int_or_null(name: str) -> Column[int | None]:
    """Return a whole number that may be absent."""
    return Column(name, Int64, nullable=True)


def reference(name: str, target: str) -> Column[str]:
    """Return the id of a row of ``target``."""
    return Column(name, Text, ForeignKey(f"{target}.id"), nullable=False)


organizations: Final = make_table(
    "organizations",
    id_column(),
    text_column("name"),
    int_column("created_at_ms"),
    int_column("revision"),
    count_column("may_store_responses"),
    int_or_null("blocked_at_ms"),
)
Index("uq_organizations_name", organizations.c.name, unique=True)
Index("ix_organizations_order", organizations.c.created_at_ms, organizations.c.id)

projects: Final = make_table(
    "projects",
    id_column(),
    reference("organization_id", "organizations"),
    text_column("name"),
    int_column("created_at_ms"),
    int_or_null("archived_at_ms"),
    int_column("revision"),
    int_or_null("blocked_at_ms"),
    count_column("is_strict"),
    text_or_null("allowed_models"),
)
Index("uq_projects_name", projects.c.organization_id, projects.c.name, unique=True)
Index("ix_projects_order", projects.c.created_at_ms, projects.c.id)
Index(
    "ix_projects_organization_order",
    projects.c.organization_id,
    projects.c.created_at_ms,
    projects.c.id,
)

api_keys: Final = make_table(
    "api_keys",
    id_column(),
    reference("project_id", "projects"),
    text_column("name"),
    text_column("role"),
    text_column("key_hash"),
    text_column("redacted"),
    int_column("created_at_ms"),
    int_or_null("expires_at_ms"),
    int_or_null("revoked_at_ms"),
    int_column("revision"),
    int_or_null("blocked_at_ms"),
    text_or_null("allowed_models"),
)
Index("uq_api_keys_key_hash", api_keys.c.key_hash, unique=True)
Index("ix_api_keys_order", api_keys.c.created_at_ms, api_keys.c.id)
Index("ix_api_keys_project_order", api_keys.c.project_id, api_keys.c.created_at_ms, api_keys.c.id)

# A limit without a model has the empty name, so that the index sees two of them.
limits: Final = make_table(
    "limits",
    id_column(),
    text_column("scope"),
    text_column("subject_id"),
    text_column("model"),
    int_or_null("requests_per_minute_max"),
    int_or_null("tokens_per_minute_max"),
    int_or_null("requests_in_flight_max"),
    int_or_null("budget_micro"),
    int_column("created_at_ms"),
)
Index("uq_limits_subject", limits.c.subject_id, limits.c.model, unique=True)
Index("ix_limits_order", limits.c.created_at_ms, limits.c.id)

# What is leased out of limits: see `domain.slices`. None of it outlives its limit or its holder.
slice_holders: Final = make_table(
    "slice_holders",
    Column("holder", Text, primary_key=True),
    text_column("gateway"),
    int_column("sequence"),
    int_column("seen_ms"),
    int_column("awake_ms"),
    int_column("lease"),
    int_column("is_lapsed"),
    text_or_null("reply"),
)
slice_windows: Final = make_table(
    "slice_windows",
    Column("limit_id", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    int_column("number"),
    int_column("start_ms"),
    int_column("end_ms"),
    int_column("granted"),
    int_column("lent_until_ms"),
)
slice_holds: Final = make_table(
    "slice_holds",
    Column("limit_id", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("period", Int64, primary_key=True, autoincrement=False),
    Column("holder", Text, primary_key=True),
    int_column("lease"),
    int_column("amount"),
)
Index("ix_slice_holds_holder", slice_holds.c.holder)
budget_spending: Final = make_table(
    "budget_spending",
    Column("limit_id", Text, primary_key=True),
    Column("period", Int64, primary_key=True, autoincrement=False),
    int_column("spent_nano"),
)

models: Final = make_table(
    "models", id_column(), text_column("name"), int_column("created_at_ms"), int_column("revision")
)
Index("uq_models_name", models.c.name, unique=True)
Index("ix_models_order", models.c.created_at_ms, models.c.id)

model_versions: Final = make_table(
    "model_versions",
    id_column(),
    reference("model_id", "models"),
    int_column("number"),
    text_column("format"),
    text_column("path"),
    text_column("digest"),
    int_column("size_bytes"),
    text_column("architecture"),
    int_column("context_length"),
    text_column("precision"),
    text_column("licence"),
    int_column("created_at_ms"),
    int_or_null("parameters"),
    text_or_null("capabilities"),
    text_or_null("base_model_id"),
    int_or_null("adapter_rank"),
)
Index("uq_model_versions_number", model_versions.c.model_id, model_versions.c.number, unique=True)

# A model without a row is free.
prices: Final = make_table(
    "prices",
    Column("model_id", Text, ForeignKey("models.id"), primary_key=True),
    int_column("prompt_micro"),
    int_column("completion_micro"),
    int_or_null("cached_micro"),
    int_column("request_micro"),
    int_column("changed_at_ms"),
)

clusters: Final = make_table(
    "clusters",
    id_column(),
    text_column("name"),
    text_column("driver"),
    text_column("status"),
    int_column("created_at_ms"),
    text_or_null("reason"),
    int_column("revision"),
)
Index("uq_clusters_name", clusters.c.name, unique=True)

nodes: Final = make_table(
    "nodes",
    id_column(),
    reference("cluster_id", "clusters"),
    text_column("name"),
    text_column("status"),
    text_column("capacity"),
    text_column("devices"),
    int_column("last_seen_at_ms"),
    int_column("revision"),
    text_or_null("rack"),
    text_or_null("site"),
    text_or_null("country"),
    text_or_null("reason"),
    text_or_null("wanted_drain_reason"),
    count_column("is_resume_wanted"),
    count_column("counted_from_ms"),
)
Index("uq_nodes_name", nodes.c.cluster_id, nodes.c.name, unique=True)

# `model_version_id` repeats the spec's, so that "who uses this model" is a look-up. It refers to
# no row: a deleted deployment keeps its story after its model is gone.
deployments: Final = make_table(
    "deployments",
    id_column(),
    reference("project_id", "projects"),
    text_column("name"),
    text_column("model_version_id"),
    text_column("spec"),
    int_column("generation"),
    int_column("created_at_ms"),
    int_column("observed_generation"),
    text_column("status"),
    int_column("ready_replicas"),
    text_or_null("reason"),
    int_column("failures"),
    int_column("retry_at_ms"),
    int_column("start_ms"),
    int_or_null("deleted_at_ms"),
    int_column("revision"),
    text_or_null("scale"),
    text_or_null("canary"),
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

replicas: Final = make_table(
    "replicas",
    id_column(),
    reference("deployment_id", "deployments"),
    reference("project_id", "projects"),
    int_column("generation"),
    text_column("status"),
    reference("cluster_id", "clusters"),
    reference("node_id", "nodes"),
    text_column("launch"),
    text_column("secret"),
    int_column("created_at_ms"),
    int_column("changed_at_ms"),
    text_or_null("address"),
    int_or_null("ready_at_ms"),
    text_or_null("reason"),
    int_column("revision"),
    text_or_null("peer_node_ids"),
)
REPLICA_HOLDS_CAPACITY: Final[ColumnElement[bool]] = replicas.c.status.not_in(
    [literal_column("'stopped'"), literal_column("'failed'")]
)
REPLICA_HAS_ENDED: Final[ColumnElement[bool]] = replicas.c.status.in_(
    [literal_column("'stopped'"), literal_column("'failed'")]
)
Index(
    "ix_replicas_holding_order",
    replicas.c.created_at_ms,
    replicas.c.id,
    sqlite_where=REPLICA_HOLDS_CAPACITY,
    postgresql_where=REPLICA_HOLDS_CAPACITY,
)
Index(
    "ix_replicas_ended_order",
    replicas.c.changed_at_ms,
    replicas.c.id,
    sqlite_where=REPLICA_HAS_ENDED,
    postgresql_where=REPLICA_HAS_ENDED,
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
demands: Final = make_table(
    "demands",
    Column("holder", Text, primary_key=True),
    Column("deployment_id", Text, primary_key=True),
    text_column("gateway"),
    int_column("requests_in_flight"),
    int_column("requests_queued"),
    int_column("tokens_per_s"),
    int_column("idle_ms"),
    int_column("at_ms"),
)

# Events refer to nothing: a story outlives its subject.
events: Final = make_table(
    "events",
    Column("sequence", Int64, primary_key=True, autoincrement=True),
    int_column("at_ms"),
    text_column("subject_id"),
    text_or_null("project_id"),
    text_column("kind"),
    text_column("message"),
    text_column("actor"),
    text_column("data"),
    autoincrement=True,
)
Index("ix_events_subject_order", events.c.subject_id, events.c.sequence)
Index("ix_events_project_order", events.c.project_id, events.c.sequence)

# One row: the current route table.
route_tables: Final = make_table(
    "route_tables",
    Column("id", Int64, primary_key=True, autoincrement=False),
    int_column("revision"),
    text_column("content"),
)

leases: Final = make_table(
    "leases",
    Column("name", Text, primary_key=True),
    text_column("holder"),
    int_column("expires_at_ms"),
)

# Usage events refer to nothing: they outlive projects, deployments and models. They are written
# once and never changed.
usage_events: Final = make_table(
    "usage_events",
    Column("sequence", Int64, primary_key=True, autoincrement=True),
    text_column("id"),
    text_column("request_id"),
    text_column("organization_id"),
    text_column("project_id"),
    text_column("api_key_id"),
    text_column("deployment_id"),
    text_column("replica_id"),
    text_column("model"),
    text_column("endpoint"),
    text_column("outcome"),
    int_column("status"),
    int_column("is_stream"),
    int_column("prompt_tokens"),
    int_column("completion_tokens"),
    int_column("cached_tokens"),
    text_column("token_source"),
    int_column("started_at_ms"),
    int_column("duration_ms"),
    int_or_null("first_byte_ms"),
    text_column("gateway"),
    int_column("accepted_at_ms"),
    count_column("cost_nano"),
    Column("holder", Text, nullable=False, server_default=text("''")),
    autoincrement=True,
)
Index("uq_usage_events_id", usage_events.c.id, unique=True)
Index("ix_usage_events_project_order", usage_events.c.project_id, usage_events.c.sequence)
Index("ix_usage_events_project_start", usage_events.c.project_id, usage_events.c.started_at_ms)
Index("ix_usage_events_start", usage_events.c.started_at_ms)

usage_totals: Final = make_table(
    "usage_totals",
    Column("hour_ms", Int64, primary_key=True, autoincrement=False),
    Column("project_id", Text, primary_key=True),
    Column("api_key_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    int_column("requests"),
    int_column("prompt_tokens"),
    int_column("completion_tokens"),
    int_column("cached_tokens"),
    count_column("cost_nano"),
)
Index("ix_usage_totals_project_hour", usage_totals.c.project_id, usage_totals.c.hour_ms)

# At most one row: every usage event up to this sequence is in `usage_totals`, no later one is.
usage_roll_up: Final = make_table(
    "usage_roll_up",
    Column("id", Int64, primary_key=True, autoincrement=False),
    int_column("rolled_sequence"),
    int_column("rolled_at_ms"),
)

# Responses that organizations allow to be kept. They refer to nothing: `previous_id` may name one
# that was deleted. `body` and `input_items` are JSON texts.
responses: Final = make_table(
    "responses",
    id_column(),
    text_column("organization_id"),
    text_column("project_id"),
    text_column("api_key_id"),
    text_column("status"),
    int_column("is_background"),
    text_column("holder"),
    text_or_null("previous_id"),
    text_column("body"),
    text_column("input_items"),
    int_column("size_bytes"),
    int_column("created_at_ms"),
    int_column("seen_at_ms"),
    int_column("revision"),
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
