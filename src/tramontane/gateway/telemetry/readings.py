"""What is read only when the metrics page is made: connections, spool, table, control plane."""

import time
from typing import TYPE_CHECKING

from tramontane.gateway.telemetry import names

if TYPE_CHECKING:
    from tramontane.gateway.control_plane.poller import RoutePoller
    from tramontane.gateway.dispatch import Gateway
    from tramontane.gateway.metering.shipper import Shipper


def of_gateway(gateway: "Gateway") -> None:
    """Have the page show the gateway's own state."""
    read, meter = gateway.telemetry.read, gateway.meter
    read(names.CONNECTIONS, lambda: gateway.client_count)
    read(names.UPSTREAM_IDLE, lambda: _idle(gateway))
    read(names.DRAINING, lambda: int(gateway.is_draining))
    read(names.REVISION, lambda: gateway.index.revision if gateway.index is not None else 0)
    read(names.SPOOL_BYTES, lambda: sum(segment.size for segment in meter.segments))


def of_control_plane(gateway: "Gateway", poller: "RoutePoller", shipper: "Shipper") -> None:
    """Have the page show how the two ways to the control plane do."""
    read, meter = gateway.telemetry.read, gateway.meter
    read(names.CONTROL_AGE, lambda: round(time.monotonic() - poller.answered_s, 3))
    read(names.EVENTS_SHIPPED, lambda: shipper.shipped)
    read(names.SPOOL_PENDING, lambda: max(0, meter.spooled - shipper.shipped))


def _idle(gateway: "Gateway") -> int:
    replicas = gateway.index.replicas.values() if gateway.index is not None else ()
    return sum(len(replica.idle) for replica in replicas)
