"""The tables show fields that the API has: a renamed field is noticed here."""

from typing import Any

import pytest
from pydantic import BaseModel

from tramontane.cli import events
from tramontane.cli.commands import (
    api_keys,
    clusters,
    deployments,
    models,
    nodes,
    organizations,
    projects,
    replicas,
    usage,
)
from tramontane.cli.commands.sites import verbs as sites
from tramontane.cli.output import Column
from tramontane.wire import cloud_replies as replies

TABLES = [
    (api_keys.COLUMNS, replies.ApiKey),
    (sites.COLUMNS, replies.Site),
    (clusters.COLUMNS, replies.Cluster),
    (deployments.COLUMNS, replies.Deployment),
    (events.COLUMNS, replies.Event),
    (models.MODELS, replies.Model),
    (models.VERSIONS, replies.ModelVersion),
    (nodes.COLUMNS, replies.Node),
    (organizations.COLUMNS, replies.Organization),
    (projects.COLUMNS, replies.Project),
    (replicas.COLUMNS, replies.Replica),
    (usage.EVENTS, replies.UsageEvent),
    (usage.TOTALS, replies.UsageTotal),
]


@pytest.mark.parametrize(("columns", "reply"), TABLES, ids=lambda v: getattr(v, "__name__", ""))
def test_each_column_is_a_field(columns: tuple[Column, ...], reply: type[BaseModel]) -> None:
    for column in columns:
        shape: Any = reply
        for name in column.field.split("."):
            assert name in shape.model_fields, column
            shape = shape.model_fields[name].annotation


def test_what_waiting_looks_at_is_there() -> None:
    looked_at = {"id", "name", "status", "replicas", "ready_replicas", "reason", "deleted_at_ms"}
    looked_at |= {"generation", "observed_generation"}
    assert looked_at <= set(replies.Deployment.model_fields)
