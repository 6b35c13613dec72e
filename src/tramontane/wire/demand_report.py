"""What gateways say of the demand: how much is asked now of each deployment."""

from typing import Annotated, Final

from pydantic import Field

from tramontane.wire.cloud_types import Strict

DEPLOYMENTS_MAX: Final = 1_000  # in one report; a gateway with more sends several
COUNT_MAX: Final = 1 << 31
IDLE_MS_MAX: Final = 1 << 40

_Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
_Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]


class DeploymentDemand(Strict):
    """The demand for one deployment on one gateway.

    ``idle_ms`` is how long ago the last request ended, 0 while there is one.
    """

    deployment_id: _Id
    requests_in_flight: _Count = 0
    requests_queued: _Count = 0
    tokens_per_s: _Count = 0
    idle_ms: Annotated[int, Field(ge=0, le=IDLE_MS_MAX)] = 0


class DemandReport(Strict):
    """What one life of a gateway (its ``holder``) says; it replaces what that said before."""

    gateway: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
    holder: _Id
    deployments: Annotated[list[DeploymentDemand], Field(max_length=DEPLOYMENTS_MAX)]
