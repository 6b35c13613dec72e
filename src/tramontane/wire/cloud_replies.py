"""What /cloud/v1 answers: one class per noun, and the list that pages of them come in.

No reply holds a secret: an API key's text stands in the reply to its creation only, a replica's
secret and environment in none. Times are milliseconds since 1970 UTC.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field

from tramontane.wire.cloud_types import Reply

Item = TypeVar("Item")
Time = Annotated[int, Field(description="Milliseconds since 1970 UTC.")]
TimeOrNull = Annotated[int | None, Field(description="Milliseconds since 1970 UTC, or null.")]


class Page(Reply, Generic[Item]):
    """One page of a list, in the order of creation; ask for the next with `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Organization(Reply):
    """The unit of billing, residency and keys."""

    object: Literal["organization"] = "organization"
    id: str
    name: str
    created_at_ms: Time
    may_store_responses: Annotated[
        bool, Field(description="Whether responses may be kept where a client asks for it.")
    ]
    blocked_at_ms: TimeOrNull


class Project(Reply):
    """The unit of quota and isolation."""

    object: Literal["project"] = "project"
    id: str
    organization_id: str
    name: str
    created_at_ms: Time
    archived_at_ms: TimeOrNull
    blocked_at_ms: TimeOrNull
    is_strict: Annotated[bool, Field(description="Whether fields that no API knows are refused.")]
    allowed_models: Annotated[list[str], Field(description='["*"]: all of the project.')]


class ApiKey(Reply):
    """A credential of one project, without its text."""

    object: Literal["api_key"] = "api_key"
    id: str
    project_id: str
    name: str
    role: str
    redacted: Annotated[str, Field(description="First and last characters of the key.")]
    created_at_ms: Time
    expires_at_ms: TimeOrNull
    revoked_at_ms: TimeOrNull
    blocked_at_ms: TimeOrNull
    allowed_models: Annotated[list[str], Field(description='["*"]: all of the project.')]
    requests_in_flight_max: Annotated[
        int | None,
        Field(description="Calls to models that it may have open at a time, by its limit."),
    ]


class NewApiKey(ApiKey):
    """A credential with its text, shown this once."""

    key: Annotated[str, Field(description="The key itself: keep it, it is never shown again.")]


class Whoami(Reply):
    """Whose key this is and what it may do."""

    object: Literal["principal"] = "principal"
    key_id: str
    project_id: str
    organization_id: str
    role: str
    permissions: list[str]


class Capabilities(Reply):
    """What the files tell of what a model can do; null: they do not."""

    generates: Annotated[bool | None, Field(description="It makes text; encoders do not.")]
    chats: Annotated[bool | None, Field(description="It has a chat template.")]
    fills_in: Annotated[bool | None, Field(description="It fills in the middle.")]
    calls_functions: Annotated[bool | None, Field(description="It calls tools.")]
    embeds: Annotated[bool | None, Field(description="It makes vectors.")]


class Weights(Reply):
    """What one version of a model is made of."""

    number: Annotated[int, Field(description="Counts the model's versions, from 1.")]
    format: Annotated[str, Field(description="gguf or safetensors.")]
    path: Annotated[
        str | None, Field(description="Where the weights lie; only an operator sees it.")
    ]
    digest: Annotated[str, Field(description="sha256:HEX over the weights.")]
    size_bytes: Annotated[int, Field(description="Bytes of all files together.")]
    architecture: str
    context_length: Annotated[int, Field(description="Tokens.")]
    precision: str
    parameters: int | None
    licence: str
    kind: Annotated[str, Field(description="model, or adapter: served beside its base model.")]
    base_model_id: Annotated[
        str | None, Field(description="Id of the model that an adapter was made for.")
    ]
    adapter_rank: Annotated[int | None, Field(description="Largest rank of an adapter.")]
    capabilities: Capabilities


class ModelVersion(Weights):
    """One immutable set of weights."""

    object: Literal["model_version"] = "model_version"
    id: str
    model_id: str
    created_at_ms: Time


class Model(Weights):
    """An entry of the catalogue with its newest version."""

    object: Literal["model"] = "model"
    id: str
    name: str
    version_id: Annotated[str, Field(description="Id of the newest version.")]
    created_at_ms: Time


class ModelDetail(Model):
    """An entry of the catalogue with all its versions, newest first."""

    versions: list[ModelVersion]


class Autoscale(Reply):
    """How the number of replicas follows the demand."""

    replicas_min: int
    replicas_max: int
    requests_in_flight: Annotated[int, Field(description="That one replica is wanted for.")]
    tokens_per_s: Annotated[int | None, Field(description="That one replica is wanted for, too.")]
    idle_ms: int
    up_cooldown_ms: int
    down_cooldown_ms: int


class CanaryLink(Reply):
    """The canary of a deployment."""

    deployment_id: str
    name: Annotated[str, Field(description="Its own name, by which it can be called alone.")]
    percent: Annotated[int, Field(description="Requests of a hundred that go to it.")]
    ready_replicas: int


class Adapter(Reply):
    """A LoRA adapter that a deployment serves under a name of its own."""

    name: Annotated[str, Field(description="What clients call as `model`.")]
    model: Annotated[str | None, Field(description="Name of its model in the catalogue.")]
    model_version: Annotated[int | None, Field(description="Number of the version.")]
    model_version_id: str


class Deployment(Reply):
    """What is wanted, and how far that has come."""

    object: Literal["deployment"] = "deployment"
    id: str
    project_id: str
    name: str
    model: Annotated[str | None, Field(description="Name of the model; null once it is deleted.")]
    model_version: Annotated[int | None, Field(description="Number of the version.")]
    model_version_id: str
    engine: str
    replicas: Annotated[int, Field(description="How many were asked for.")]
    wanted_replicas: Annotated[
        int, Field(description="How many are wanted now: as asked for, or as the demand says.")
    ]
    wanted_reason: Annotated[
        str | None, Field(description="Why so many, in words; null: they were asked for.")
    ]
    autoscale: Annotated[
        Autoscale | None, Field(description="How it scales by itself; null: it does not.")
    ]
    ready_replicas: Annotated[int, Field(description="How many serve.")]
    context_length: Annotated[int, Field(description="Tokens per request.")]
    parallel: Annotated[int, Field(description="Requests that one replica serves at a time.")]
    nodes: Annotated[int, Field(description="Nodes of one rack that one replica takes.")]
    devices: Annotated[int, Field(description="Accelerators per node.")]
    cpu_millicores: Annotated[int | None, Field(description="Thousandths of a core per node.")]
    memory_bytes: Annotated[int | None, Field(description="Bytes of memory per node.")]
    cluster: Annotated[str | None, Field(description="The only one to run on; null: any.")]
    priority_class: Annotated[str, Field(description="One of reserved, standard, spot.")]
    engine_options: dict[str, str]
    adapters: Annotated[list[Adapter], Field(description="Served beside the model, by name.")]
    canary: Annotated[CanaryLink | None, Field(description="Its canary, if it has one.")]
    canary_of_id: Annotated[
        str | None, Field(description="Id of the deployment that this is the canary of.")
    ]
    status: Annotated[str, Field(description="One of pending, ready, degraded, stopping, stopped.")]
    reason: Annotated[str | None, Field(description="What is missing, in words.")]
    generation: Annotated[int, Field(description="Counts changes that need new replicas.")]
    observed_generation: Annotated[int, Field(description="The newest generation acted on.")]
    created_at_ms: Time
    deleted_at_ms: TimeOrNull


class Resources(Reply):
    """Amounts that a replica holds or a node offers."""

    cpu_millicores: Annotated[int, Field(description="Thousandths of a CPU core.")]
    memory_bytes: int
    devices: Annotated[int, Field(description="Accelerators.")]


class Replica(Reply):
    """One running engine."""

    object: Literal["replica"] = "replica"
    id: str
    deployment_id: str
    project_id: str
    generation: int
    status: Annotated[
        str,
        Field(description="One of pending, starting, ready, stopping, stopped, failed, unknown."),
    ]
    cluster_id: str
    node_id: str
    peer_node_ids: Annotated[list[str], Field(description="Further nodes of one on several.")]
    address: Annotated[
        str | None, Field(description="host:port of the engine; only an operator sees it.")
    ]
    reason: str | None
    resources: Resources
    created_at_ms: Time
    changed_at_ms: Time
    ready_at_ms: TimeOrNull


class ReplicaLog(Reply):
    """The last lines of one replica, oldest first."""

    replica_id: str
    status: str
    lines: list[str]
    reason: Annotated[str | None, Field(description="Why there are no lines, if that is known.")]


class Logs(Reply):
    """The last lines of a deployment's replicas."""

    object: Literal["logs"] = "logs"
    deployment_id: str
    data: list[ReplicaLog]


class Cluster(Reply):
    """A set of nodes behind one driver."""

    object: Literal["cluster"] = "cluster"
    id: str
    name: str
    driver: str
    status: Annotated[str, Field(description="ready or unknown.")]
    reason: str | None
    created_at_ms: Time


class Device(Reply):
    """An accelerator."""

    index: int
    name: str
    memory_bytes: int


class Node(Reply):
    """One machine, what replicas may use of it, and what Tramontane runs there."""

    object: Literal["node"] = "node"
    id: str
    cluster_id: str
    cluster: Annotated[str, Field(description="Name of its cluster.")]
    name: str
    site: Annotated[str | None, Field(description="Where it stands, as the operator says.")]
    country: Annotated[str | None, Field(description="Whose law it is under.")]
    rack: Annotated[str | None, Field(description="Nodes with the fastest network between them.")]
    status: Annotated[str, Field(description="One of ready, drained, lost, unknown.")]
    reason: Annotated[str | None, Field(description="Why it is drained or lost.")]
    wanted: Annotated[
        str | None, Field(description="drained or ready, when that was asked for; else null.")
    ]
    wanted_reason: Annotated[str | None, Field(description="Why it is wanted drained.")]
    capacity: Resources
    devices: list[Device]
    devices_free: Annotated[
        int, Field(description="Not held by replicas or attempts; others may hold some of them.")
    ]
    replica_ids: Annotated[list[str], Field(description="Replicas that hold a part of it.")]
    attempt_ids: Annotated[list[str], Field(description="Attempts at jobs that run on it.")]
    failures: Annotated[
        int, Field(description="How many things failed on it since anything worked there.")
    ]
    last_seen_at_ms: Time


class Rack(Reply):
    """The nodes of a cluster with the fastest network between them."""

    name: Annotated[str | None, Field(description="Null: the cluster tells no racks.")]
    nodes: list[Node]


class ClusterDetail(Cluster):
    """A cluster with its racks and their nodes."""

    site: Annotated[str | None, Field(description="Where it stands, as the operator says.")]
    country: Annotated[str | None, Field(description="Whose law it is under.")]
    racks: list[Rack]


class Site(Reply):
    """Where machines stand, and the country whose law they are under, as the operator says."""

    object: Literal["site"] = "site"
    name: Annotated[str | None, Field(description="Null: of clusters that name none.")]
    country: str | None
    clusters: Annotated[list[str], Field(description="Names of the clusters with nodes there.")]
    racks: Annotated[int, Field(description="Racks that the clusters tell of.")]
    nodes: int
    nodes_ready: Annotated[int, Field(description="Nodes that take replicas and attempts.")]
    devices: int
    devices_free: Annotated[
        int, Field(description="Of ready nodes, not held by replicas or attempts.")
    ]


class Event(Reply):
    """One line of an object's story."""

    object: Literal["event"] = "event"
    sequence: int
    at_ms: Time
    subject_id: str
    project_id: str | None
    kind: str
    message: str
    actor: str
    data: dict[str, str | int | None]


class Story(Reply):
    """A page of an object's story, oldest first; ask on with `after=<last sequence>`."""

    object: Literal["list"] = "list"
    data: list[Event]
    first_id: int | None
    last_id: int | None
    has_more: bool


class UsageTotal(Reply):
    """Sums over requests; the keys that were not grouped by are null."""

    object: Literal["usage_total"] = "usage_total"
    hour_ms: TimeOrNull
    project_id: str | None
    api_key_id: str | None
    model: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_nano: Annotated[int, Field(description="Nano-euros.")]


class UsageTotals(Reply):
    """Usage added up; when there are more sums than asked for, narrow the time or the group."""

    object: Literal["list"] = "list"
    data: list[UsageTotal]
    has_more: bool


class UsageEvent(Reply):
    """What one request used."""

    object: Literal["usage_event"] = "usage_event"
    id: str
    request_id: str
    organization_id: str
    project_id: str
    api_key_id: str
    deployment_id: str
    replica_id: str
    model: str
    endpoint: str
    outcome: Annotated[str, Field(description="One of completed, cut, failed.")]
    status: Annotated[int, Field(description="HTTP status that the client got.")]
    is_stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    token_source: Annotated[str, Field(description="engine, or counted by the gateway.")]
    started_at_ms: Time
    duration_ms: int
    first_byte_ms: Annotated[int | None, Field(description="Milliseconds to the first byte.")]
    gateway: str
    cost_nano: Annotated[int, Field(description="Nano-euros, by the prices of the time.")]


class Deleted(Reply):
    """What is gone, or on its way."""

    object: str
    id: str
    deleted: Literal[True] = True


class Plan(Reply):
    """What the replica reconciler would do next, and from what it concludes that."""

    snapshot: dict[str, Any]
    plan: dict[str, Any]


class ErrorDetail(Reply):
    """The error as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str


class Error(Reply):
    """Every error: Mistral's flat keys and OpenAI's nested ones, with the same values."""

    object: Literal["error"] = "error"
    message: Annotated[str, Field(description="What was wrong, what was expected, what to do.")]
    type: str
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: Annotated[str, Field(description="Stable: match on this.")]
    error: ErrorDetail
