"""The words of /cloud/v1: field types with their bounds, each with its pattern in plain words.

Bounds stand in the schema, so that the OpenAPI document, the server's check and the reader agree.
`PATTERN_WORDS` says in words what each pattern accepts; error messages use it.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from tramontane.domain.deployment import (
    ADAPTERS_MAX,
    AUTOSCALE_MS_MAX,
    IDLE_MS_MIN,
    NODES_MAX,
    REPLICAS_MAX,
)
from tramontane.domain.weights.facts import CONTEXT_LENGTH_MAX

DNS_LABEL: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
REF_OR_EMPTY: Final = r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,127})?$"
MODEL_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
MODEL_REF: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(:[1-9][0-9]{0,8})?$"
REF: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
DIGEST: Final = r"^sha256:[0-9a-f]{64}$"
ABSOLUTE_PATH: Final = r"^/[^\x00-\x1f\x7f]*$"
CALLED_MODEL: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
ALLOWED_MODEL: Final = r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/-]{0,127})$"
PRINTABLE: Final = r"^[ -~]+$"
RACK: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
OPTION_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

PATTERN_WORDS: Final = {
    DNS_LABEL: "a DNS label: 1 to 63 of a-z, 0-9 and inner hyphens, such as my-chat-1",
    MODEL_NAME: "1 to 96 letters, digits, dots, underscores and hyphens, such as Mistral-7B-v0.3",
    MODEL_REF: "a model's name or id, or NAME:VERSION, such as tramontane-demo:2",
    REF: "an id or a name: 1 to 128 letters, digits, dots, underscores, colons and hyphens",
    REF_OR_EMPTY: "an id or a name, or an empty text",
    DIGEST: "sha256: and 64 hexadecimal digits in lower case",
    ABSOLUTE_PATH: "an absolute path without control characters",
    CALLED_MODEL: "the name that requests ask for, such as my-chat-1",
    ALLOWED_MODEL: "the name that requests ask for, such as my-chat-1, or * for all",
    PRINTABLE: "printable ASCII characters",
    RACK: "1 to 64 letters, digits, dots, underscores and hyphens, such as rack1",
    OPTION_NAME: "1 to 64 letters, digits, dots, underscores and hyphens",
}

TIME_MS_MAX: Final = 253_402_300_799_999  # the last millisecond of the year 9999
PAGE_LIMIT_MAX: Final = 100
PAGE_LIMIT_DEFAULT: Final = 20
PARALLEL_MAX: Final = 1_024  # requests at a time in one engine; vLLM's default is 256
DEVICES_MAX: Final = 1_024  # one NVLink domain has 72; a deployment beyond this is an error
CPU_MILLICORES_MAX: Final = 4_096_000  # four thousand cores in one node do not exist
MEMORY_BYTES_MAX: Final = 1 << 50  # one pebibyte
ENGINE_OPTIONS_MAX: Final = 64
TOKENS_PER_S_MAX: Final = 1_000_000_000  # of one replica; the fastest racks make a million
ALLOWED_MODELS_MAX: Final = 100  # more are better kept apart by projects
TOTALS_MAX: Final = 1_000  # six weeks by the hour
LOG_LINES_MAX: Final = 1_000
LOG_LINES_DEFAULT: Final = 100

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
ModelName = Annotated[str, Field(min_length=1, max_length=96, pattern=MODEL_NAME)]
ModelRef = Annotated[str, Field(min_length=1, max_length=106, pattern=MODEL_REF)]
Ref = Annotated[str, Field(min_length=1, max_length=128, pattern=REF)]
CalledModel = Annotated[str, Field(min_length=1, max_length=128, pattern=CALLED_MODEL)]
AllowedModel = Annotated[str, Field(min_length=1, max_length=128, pattern=ALLOWED_MODEL)]
AllowedModels = Annotated[list[AllowedModel], Field(max_length=ALLOWED_MODELS_MAX)]
Rack = Annotated[str, Field(min_length=1, max_length=64, pattern=RACK)]
Digest = Annotated[str, Field(min_length=71, max_length=71, pattern=DIGEST)]
AbsolutePath = Annotated[str, Field(min_length=1, max_length=4_096, pattern=ABSOLUTE_PATH)]
Licence = Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTABLE)]
Reason = Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]
OptionName = Annotated[str, Field(min_length=1, max_length=64, pattern=OPTION_NAME)]
OptionValue = Annotated[str, Field(min_length=1, max_length=512, pattern=PRINTABLE)]
TimeMs = Annotated[int, Field(ge=0, le=TIME_MS_MAX)]
Replicas = Annotated[int, Field(ge=0, le=REPLICAS_MAX)]
Nodes = Annotated[int, Field(ge=1, le=NODES_MAX)]
PriorityClass = Literal["reserved", "standard", "spot"]
RefOrEmpty = Annotated[str, Field(max_length=128, pattern=REF_OR_EMPTY)]
ContextLength = Annotated[int, Field(ge=1, le=CONTEXT_LENGTH_MAX)]
Parallel = Annotated[int, Field(ge=1, le=PARALLEL_MAX)]
Devices = Annotated[int, Field(ge=0, le=DEVICES_MAX)]
CpuMillicores = Annotated[int, Field(ge=1, le=CPU_MILLICORES_MAX)]
MemoryBytes = Annotated[int, Field(ge=1, le=MEMORY_BYTES_MAX)]
Percent = Annotated[int, Field(ge=0, le=100)]
ReplicasMax = Annotated[int, Field(ge=1, le=REPLICAS_MAX)]
RequestsPerReplica = Annotated[int, Field(ge=1, le=PARALLEL_MAX)]
TokensPerS = Annotated[int, Field(ge=1, le=TOKENS_PER_S_MAX)]
IdleMs = Annotated[int, Field(ge=IDLE_MS_MIN, le=AUTOSCALE_MS_MAX)]
CooldownMs = Annotated[int, Field(ge=0, le=AUTOSCALE_MS_MAX)]
Adapters = Annotated[dict[Name, ModelRef], Field(max_length=ADAPTERS_MAX)]
EngineOptions = Annotated[dict[OptionName, OptionValue], Field(max_length=ENGINE_OPTIONS_MAX)]


class Strict(BaseModel):
    """A request: exact types, and no field that is not listed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(BaseModel):
    """Query parameters: text turned into the stated type, and none that is not listed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """A reply: what the server sends."""

    model_config = ConfigDict(frozen=True)
