"""What clients send to /cloud/v1: one class per body and per set of query parameters."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tramontane.domain.deployment import (
    DOWN_COOLDOWN_MS_DEFAULT,
    IDLE_MS_DEFAULT,
    UP_COOLDOWN_MS_DEFAULT,
)
from tramontane.wire import cloud_types as types
from tramontane.wire.cloud_types import Query, Strict

_ALLOWED = 'Names that may be called as `model`; ["*"]: all of the project, []: none.'
_PROJECT = "Id or name of a project; only an operator may name another than its own."


def _example(body: dict[str, Any]) -> ConfigDict:
    """Return a configuration that shows ``body`` in the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class CreateOrganization(Strict):
    """A new organization."""

    model_config = _example({"name": "acme"})

    name: Annotated[types.Name, Field(description="Unique name, a DNS label.")]


class CreateProject(Strict):
    """A new project."""

    model_config = _example({"name": "web", "organization": "acme"})

    name: Annotated[types.Name, Field(description="Name, unique in its organization.")]
    organization: Annotated[
        types.Ref | None,
        Field(description="Id or name of its organization; the key's own when left out."),
    ] = None


class CreateApiKey(Strict):
    """A new API key. Its text is in the reply to this call and nowhere else."""

    model_config = _example({"name": "website", "role": "member", "project": "web"})

    name: Annotated[types.Name, Field(description="What the key is for; need not be unique.")]
    role: Annotated[
        Literal["member", "operator"],
        Field(description="`member` uses its project; `operator` runs the installation."),
    ] = "member"
    expires_at_ms: Annotated[
        types.TimeMs | None,
        Field(description="When it ends, in milliseconds since 1970 UTC; null: never."),
    ] = None
    requests_in_flight_max: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description="Calls to models that it may have open at a time; one more is answered "
            "429. It becomes a limit of the key. Null: any number.",
        ),
    ] = None
    allowed_models: Annotated[types.AllowedModels | None, Field(description=_ALLOWED)] = None
    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None


class PatchOrganization(Strict):
    """A change. What is left out or null stays as it is."""

    model_config = _example({"may_store_responses": True})

    is_blocked: Annotated[
        bool | None, Field(description="Whether its keys are kept from calling models.")
    ] = None
    may_store_responses: Annotated[
        bool | None, Field(description="Whether responses may be kept where a client asks for it.")
    ] = None


class PatchProject(Strict):
    """A change. What is left out or null stays as it is."""

    model_config = _example({"allowed_models": ["my-chat-1"]})

    is_blocked: Annotated[
        bool | None, Field(description="Whether its keys are kept from calling models.")
    ] = None
    is_strict: Annotated[
        bool | None, Field(description="Whether fields that no API knows are refused.")
    ] = None
    allowed_models: Annotated[types.AllowedModels | None, Field(description=_ALLOWED)] = None


class PatchApiKey(Strict):
    """A change. What is left out or null stays as it is."""

    model_config = _example({"is_blocked": True})

    is_blocked: Annotated[
        bool | None, Field(description="Whether it is kept from calling models.")
    ] = None
    allowed_models: Annotated[types.AllowedModels | None, Field(description=_ALLOWED)] = None


class ImportModel(Strict):
    """Weights that lie on the machines that serve them."""

    model_config = _example(
        {"name": "my-model", "path": "/models/my-model.gguf", "licence": "Apache-2.0"}
    )

    name: Annotated[types.ModelName, Field(description="Name of the model in the catalogue.")]
    path: Annotated[
        types.AbsolutePath,
        Field(description="Absolute path of a GGUF file or of a folder of safetensors files."),
    ]
    digest: Annotated[
        types.Digest | None,
        Field(description="The digest that you expect; the import is refused if it differs."),
    ] = None
    licence: Annotated[
        types.Licence | None,
        Field(description="Licence, such as Apache-2.0; needed when the files name none."),
    ] = None
    base: Annotated[
        types.ModelRef | None,
        Field(description="Of a LoRA adapter: the model that it was made for."),
    ] = None


class SetAutoscale(Strict):
    """How the number of replicas follows the demand."""

    model_config = _example({"replicas_min": 0, "replicas_max": 4, "requests_in_flight": 8})

    replicas_min: Annotated[
        types.Replicas,
        Field(description="Fewest; 0: the last one ends when idle, a request starts one."),
    ] = 0
    replicas_max: Annotated[types.ReplicasMax, Field(description="Most.")]
    requests_in_flight: Annotated[
        types.RequestsPerReplica,
        Field(description="Requests, running and queued, that one replica is wanted for."),
    ]
    tokens_per_s: Annotated[
        types.TokensPerS | None,
        Field(description="Generated tokens per second that one replica is wanted for, too."),
    ] = None
    idle_ms: Annotated[
        types.IdleMs, Field(description="Without a request for so long, the last replica ends.")
    ] = IDLE_MS_DEFAULT
    up_cooldown_ms: Annotated[
        types.CooldownMs, Field(description="After a change, more are added no sooner than this.")
    ] = UP_COOLDOWN_MS_DEFAULT
    down_cooldown_ms: Annotated[
        types.CooldownMs,
        Field(description="Fewer are wanted once they were enough for so long."),
    ] = DOWN_COOLDOWN_MS_DEFAULT


class CreateDeployment(Strict):
    """A model to be served to one project, under a name of its own."""

    model_config = _example({"name": "chat", "model": "tramontane-demo", "replicas": 2})

    name: Annotated[
        types.Name,
        Field(description="Name, unique in its project; clients call it as `model`."),
    ]
    model: Annotated[
        types.ModelRef,
        Field(description="Model to serve: name, id, or NAME:VERSION; the newest version if bare."),
    ]
    replicas: Annotated[types.Replicas, Field(description="How many engines are wanted.")] = 1
    engine: Annotated[
        Literal["llamacpp", "vllm"] | None,
        Field(description="Engine; null: llamacpp for GGUF, vllm for safetensors."),
    ] = None
    context_length: Annotated[
        types.ContextLength | None,
        Field(description="Tokens per request; null: the model's own, at most 4096."),
    ] = None
    parallel: Annotated[
        types.Parallel, Field(description="Requests that one replica serves at a time.")
    ] = 4
    nodes: Annotated[
        types.Nodes, Field(description="Nodes of one rack that one replica takes.")
    ] = 1
    devices: Annotated[types.Devices, Field(description="Accelerators per node.")] = 0
    cpu_millicores: Annotated[
        types.CpuMillicores | None,
        Field(description="Thousandths of a CPU core per node; null: as the engine needs."),
    ] = None
    memory_bytes: Annotated[
        types.MemoryBytes | None,
        Field(description="Bytes of memory per node; null: as the engine needs."),
    ] = None
    cluster: Annotated[
        types.Ref | None,
        Field(description="Name or id of the only cluster to run on; null: any."),
    ] = None
    priority_class: Annotated[
        types.PriorityClass,
        Field(description="Who gives way where a cluster is full: spot first, reserved last."),
    ] = "standard"
    engine_options: Annotated[
        types.EngineOptions | None, Field(description="Further options of the engine, by name.")
    ] = None
    adapters: Annotated[
        types.Adapters | None,
        Field(description="LoRA adapters by the names that clients call, each with its model."),
    ] = None
    autoscale: Annotated[
        SetAutoscale | None,
        Field(description="Lets the number of replicas follow the demand, from `replicas` on."),
    ] = None
    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None


class PatchDeployment(Strict):
    """A change. A field that is left out or null stays as it is.

    A change of `replicas` alone adds or drains replicas; any other change replaces them one by
    one without dropping below the number that is ready.
    """

    model_config = _example({"model": "tramontane-demo:2", "parallel": 8})

    model: Annotated[types.ModelRef | None, Field(description="Model to serve from now on.")] = None
    replicas: Annotated[types.Replicas | None, Field(description="Engines wanted.")] = None
    context_length: Annotated[
        types.ContextLength | None, Field(description="Tokens per request.")
    ] = None
    parallel: Annotated[
        types.Parallel | None, Field(description="Requests that one replica serves at a time.")
    ] = None
    nodes: Annotated[
        types.Nodes | None, Field(description="Nodes of one rack that one replica takes.")
    ] = None
    devices: Annotated[types.Devices | None, Field(description="Accelerators per node.")] = None
    cpu_millicores: Annotated[
        types.CpuMillicores | None, Field(description="Thousandths of a CPU core per node.")
    ] = None
    memory_bytes: Annotated[
        types.MemoryBytes | None, Field(description="Bytes of memory per node.")
    ] = None
    cluster: Annotated[
        types.RefOrEmpty | None,
        Field(description="Name or id of the only cluster to run on; empty: any."),
    ] = None
    priority_class: Annotated[
        types.PriorityClass | None,
        Field(description="Who gives way where a cluster is full: spot first, reserved last."),
    ] = None
    engine_options: Annotated[
        types.EngineOptions | None, Field(description="All further options; replaces the old ones.")
    ] = None
    adapters: Annotated[
        types.Adapters | None, Field(description="All LoRA adapters; replaces the old ones.")
    ] = None


class ScaleDeployment(Strict):
    """The number of replicas that is wanted from now on."""

    model_config = _example({"replicas": 3})

    replicas: Annotated[types.Replicas, Field(description="Engines wanted; 0 stops serving.")]


class SetCanary(Strict):
    """A second version beside a deployment, or a change of the one there is.

    What is left out or null is as the deployment has it, or stays as the canary has it.
    """

    model_config = _example({"model": "tramontane-demo:2", "percent": 10})

    percent: Annotated[
        types.Percent | None,
        Field(description="Requests of a hundred that go to it; needed to start one."),
    ] = None
    name: Annotated[
        types.Name | None,
        Field(description="Its own name, to call it alone; null: the deployment's and -canary."),
    ] = None
    model: Annotated[types.ModelRef | None, Field(description="Model that it serves.")] = None
    replicas: Annotated[
        types.Replicas | None, Field(description="Its engines; null: one to start with.")
    ] = None
    context_length: Annotated[
        types.ContextLength | None, Field(description="Tokens per request.")
    ] = None
    parallel: Annotated[
        types.Parallel | None, Field(description="Requests that one replica serves at a time.")
    ] = None
    engine_options: Annotated[
        types.EngineOptions | None, Field(description="All further options; replaces the old ones.")
    ] = None


class PageQuery(Query):
    """Where a page starts and how long it is."""

    after: Annotated[types.Ref | None, Field(description="Id of the last item already seen.")] = (
        None
    )
    limit: Annotated[
        int, Field(ge=1, le=types.PAGE_LIMIT_MAX, description="Items on the page.")
    ] = types.PAGE_LIMIT_DEFAULT


class SiteQuery(Query):
    """How many sites: there are few, so they come on one page."""

    limit: Annotated[int, Field(ge=1, le=types.PAGE_LIMIT_MAX, description="Sites at most.")] = (
        types.PAGE_LIMIT_DEFAULT
    )


class ProjectPageQuery(PageQuery):
    """A page of what belongs to a project."""

    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None


class OrganizationPageQuery(PageQuery):
    """A page of projects."""

    organization: Annotated[
        types.Ref | None, Field(description="Only those of this organization, by id or name.")
    ] = None


class ReplicaPageQuery(ProjectPageQuery):
    """A page of replicas."""

    deployment: Annotated[
        types.Ref | None, Field(description="Only those of this deployment, by id or name.")
    ] = None


class NodePageQuery(PageQuery):
    """A page of nodes."""

    cluster: Annotated[
        types.Ref | None, Field(description="Only those of this cluster, by id or name.")
    ] = None


class NodeQuery(Query):
    """Which node a name means."""

    cluster: Annotated[
        types.Ref | None, Field(description="Its cluster, where several have a node of that name.")
    ] = None


class DrainNode(Strict):
    """Nothing new is to start on the node, and what serves there is to move."""

    model_config = _example({"reason": "new disks"})

    reason: Annotated[types.Reason, Field(description="Why; the cluster's own tools show it.")]


class ProjectQuery(Query):
    """Which project a deployment's name means."""

    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None


class LogQuery(ProjectQuery):
    """How much of the logs."""

    lines: Annotated[
        int,
        Field(ge=1, le=types.LOG_LINES_MAX, description="Last lines of each replica."),
    ] = types.LOG_LINES_DEFAULT


class StoryQuery(Query):
    """A page of one object's events."""

    after: Annotated[
        int, Field(ge=0, le=(1 << 63) - 1, description="Sequence of the last event already seen.")
    ] = 0
    limit: Annotated[
        int, Field(ge=1, le=types.PAGE_LIMIT_MAX, description="Events on the page.")
    ] = types.PAGE_LIMIT_DEFAULT


class DeploymentStoryQuery(StoryQuery):
    """A page of one deployment's events."""

    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None


class SubjectStoryQuery(StoryQuery):
    """A page of the events of any object."""

    subject: Annotated[types.Ref, Field(description="Id of the object.")]


class UsageQuery(Query):
    """Which usage to add up, and by what; the range counts when a request started."""

    from_ms: Annotated[types.TimeMs, Field(description="From this millisecond since 1970 UTC.")] = 0
    to_ms: Annotated[types.TimeMs, Field(description="Up to, but without, this millisecond.")] = (
        types.TIME_MS_MAX
    )
    group_by: Annotated[
        Literal["hour", "project", "api_key", "model", "none"],
        Field(description="What each line of the answer stands for."),
    ] = "model"
    project: Annotated[types.Ref | None, Field(description=_PROJECT)] = None
    limit: Annotated[int, Field(ge=1, le=types.TOTALS_MAX, description="Sums in the answer.")] = (
        types.TOTALS_MAX
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.from_ms > self.to_ms:
            msg = "from_ms must not be after to_ms"
            raise ValueError(msg)
        return self
