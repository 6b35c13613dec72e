"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _tenancy()
    _catalog()
    _fleet()
    _deployments()
    _replicas()
    _stories_routes_leases()
    _usage_events()
    _usage_totals()


def _tenancy() -> None:
    op.create_table(
        "organizations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("revision", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organizations"),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_organizations_order", "organizations", ["created_at_ms", "id"], unique=False
    )
    op.create_index("uq_organizations_name", "organizations", ["name"], unique=True)
    op.create_table(
        "projects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("archived_at_ms", INT64, nullable=True),
        sa.Column("revision", INT64, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name="fk_projects_organization_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sqlite_strict=True,
    )
    op.create_index("ix_projects_order", "projects", ["created_at_ms", "id"], unique=False)
    op.create_index(
        "ix_projects_organization_order",
        "projects",
        ["organization_id", "created_at_ms", "id"],
        unique=False,
    )
    op.create_index("uq_projects_name", "projects", ["organization_id", "name"], unique=True)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("redacted", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("expires_at_ms", INT64, nullable=True),
        sa.Column("revoked_at_ms", INT64, nullable=True),
        sa.Column("requests_in_flight_max", INT64, nullable=True),
        sa.Column("revision", INT64, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_api_keys_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sqlite_strict=True,
    )
    op.create_index("ix_api_keys_order", "api_keys", ["created_at_ms", "id"], unique=False)
    op.create_index(
        "ix_api_keys_project_order", "api_keys", ["project_id", "created_at_ms", "id"], unique=False
    )
    op.create_index("uq_api_keys_key_hash", "api_keys", ["key_hash"], unique=True)


def _catalog() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("revision", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sqlite_strict=True,
    )
    op.create_index("ix_models_order", "models", ["created_at_ms", "id"], unique=False)
    op.create_index("uq_models_name", "models", ["name"], unique=True)
    op.create_table(
        "model_versions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("number", INT64, nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", INT64, nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("context_length", INT64, nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("parameters", INT64, nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_model_versions_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_model_versions"),
        sqlite_strict=True,
    )
    op.create_index(
        "uq_model_versions_number", "model_versions", ["model_id", "number"], unique=True
    )


def _fleet() -> None:
    op.create_table(
        "clusters",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("revision", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_clusters"),
        sqlite_strict=True,
    )
    op.create_index("uq_clusters_name", "clusters", ["name"], unique=True)
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("capacity", sa.Text(), nullable=False),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("last_seen_at_ms", INT64, nullable=False),
        sa.Column("revision", INT64, nullable=False),
        sa.ForeignKeyConstraint(["cluster_id"], ["clusters.id"], name="fk_nodes_cluster_id"),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sqlite_strict=True,
    )
    op.create_index("uq_nodes_name", "nodes", ["cluster_id", "name"], unique=True)


def _deployments() -> None:
    op.create_table(
        "deployments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model_version_id", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("generation", INT64, nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("observed_generation", INT64, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("ready_replicas", INT64, nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("failures", INT64, nullable=False),
        sa.Column("retry_at_ms", INT64, nullable=False),
        sa.Column("start_ms", INT64, nullable=False),
        sa.Column("deleted_at_ms", INT64, nullable=True),
        sa.Column("revision", INT64, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_deployments_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_deployments_live_order",
        "deployments",
        ["created_at_ms", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at_ms IS NULL OR status != 'stopped'"),
        postgresql_where=sa.text("deleted_at_ms IS NULL OR status != 'stopped'"),
    )
    op.create_index(
        "ix_deployments_model_version", "deployments", ["model_version_id"], unique=False
    )
    op.create_index(
        "ix_deployments_project_live_order",
        "deployments",
        ["project_id", "created_at_ms", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at_ms IS NULL OR status != 'stopped'"),
        postgresql_where=sa.text("deleted_at_ms IS NULL OR status != 'stopped'"),
    )
    op.create_index(
        "uq_deployments_name",
        "deployments",
        ["project_id", "name"],
        unique=True,
        sqlite_where=sa.text("deleted_at_ms IS NULL"),
        postgresql_where=sa.text("deleted_at_ms IS NULL"),
    )


def _replicas() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("generation", INT64, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("launch", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_at_ms", INT64, nullable=False),
        sa.Column("changed_at_ms", INT64, nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("ready_at_ms", INT64, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("revision", INT64, nullable=False),
        sa.ForeignKeyConstraint(["cluster_id"], ["clusters.id"], name="fk_replicas_cluster_id"),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployments.id"], name="fk_replicas_deployment_id"
        ),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_replicas_node_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_replicas_project_id"),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_replicas_deployment_order",
        "replicas",
        ["deployment_id", "created_at_ms", "id"],
        unique=False,
    )
    op.create_index(
        "ix_replicas_holding_order",
        "replicas",
        ["created_at_ms", "id"],
        unique=False,
        sqlite_where=sa.text("(status NOT IN ('stopped', 'failed'))"),
        postgresql_where=sa.text("(status NOT IN ('stopped', 'failed'))"),
    )
    op.create_index("ix_replicas_order", "replicas", ["created_at_ms", "id"], unique=False)
    op.create_index(
        "ix_replicas_project_order", "replicas", ["project_id", "created_at_ms", "id"], unique=False
    )


def _stories_routes_leases() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", INT64, autoincrement=True, nullable=False),
        sa.Column("at_ms", INT64, nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_events"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("ix_events_project_order", "events", ["project_id", "sequence"], unique=False)
    op.create_index("ix_events_subject_order", "events", ["subject_id", "sequence"], unique=False)
    op.create_table(
        "route_tables",
        sa.Column("id", INT64, autoincrement=False, nullable=False),
        sa.Column("revision", INT64, nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_route_tables"),
        sqlite_strict=True,
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
        sqlite_strict=True,
    )


def _usage_events() -> None:
    op.create_table(
        "usage_events",
        sa.Column("sequence", INT64, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("deployment_id", sa.Text(), nullable=False),
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status", INT64, nullable=False),
        sa.Column("is_stream", INT64, nullable=False),
        sa.Column("prompt_tokens", INT64, nullable=False),
        sa.Column("completion_tokens", INT64, nullable=False),
        sa.Column("cached_tokens", INT64, nullable=False),
        sa.Column("token_source", sa.Text(), nullable=False),
        sa.Column("started_at_ms", INT64, nullable=False),
        sa.Column("duration_ms", INT64, nullable=False),
        sa.Column("first_byte_ms", INT64, nullable=True),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("accepted_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_usage_events"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index(
        "ix_usage_events_project_order", "usage_events", ["project_id", "sequence"], unique=False
    )
    op.create_index(
        "ix_usage_events_project_start",
        "usage_events",
        ["project_id", "started_at_ms"],
        unique=False,
    )
    op.create_index("ix_usage_events_start", "usage_events", ["started_at_ms"], unique=False)
    op.create_index("uq_usage_events_id", "usage_events", ["id"], unique=True)


def _usage_totals() -> None:
    op.create_table(
        "usage_totals",
        sa.Column("hour_ms", INT64, autoincrement=False, nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("requests", INT64, nullable=False),
        sa.Column("prompt_tokens", INT64, nullable=False),
        sa.Column("completion_tokens", INT64, nullable=False),
        sa.Column("cached_tokens", INT64, nullable=False),
        sa.PrimaryKeyConstraint(
            "hour_ms", "project_id", "api_key_id", "model", name="pk_usage_totals"
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_usage_totals_project_hour", "usage_totals", ["project_id", "hour_ms"], unique=False
    )
    op.create_table(
        "usage_roll_up",
        sa.Column("id", INT64, autoincrement=False, nullable=False),
        sa.Column("rolled_sequence", INT64, nullable=False),
        sa.Column("rolled_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_roll_up"),
        sqlite_strict=True,
    )
