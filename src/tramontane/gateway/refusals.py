"""What the gateway says when it serves a request not: each sentence in one place."""

import math
from typing import Final

from tramontane.domain.refusal import Code, Refusal
from tramontane.domain.routing import Route

_RETRY_AFTER_S: Final = 10  # when nothing is known about when it will be better

NO_TABLE: Final = Refusal(
    Code.UNAVAILABLE, "the gateway has no route table yet; try again", retry_after_s=1
)
BUG: Final = Refusal(
    Code.INTERNAL, "the gateway failed to serve this request; it was written to the log"
)
TOO_SLOW: Final = Refusal(Code.REQUEST_TIMEOUT, "the request did not arrive in time; send it again")
STOPPING: Final = Refusal(
    Code.UNAVAILABLE, "the gateway is stopping; send the request again", retry_after_s=1
)
CONTROL_AWAY: Final = Refusal(
    Code.UNAVAILABLE, "the control plane does not answer now; try again", retry_after_s=1
)
CONTROL_BROKE: Final = Refusal(
    Code.UPSTREAM_ERROR, "the control plane ended the connection before it answered"
)


WAITING_FULL: Final = Refusal(
    Code.RATE_LIMIT_EXCEEDED,
    "too many requests wait for room within their limits; try again",
    retry_after_s=1,
)


def body_too_large(limit_bytes: int) -> Refusal:
    """Return the refusal of a body above the limit."""
    message = f"the request body exceeds {limit_bytes} bytes; send a smaller one"
    return Refusal(Code.BODY_TOO_LARGE, message)


def head_too_large(limit_bytes: int) -> Refusal:
    """Return the refusal of a request line and headers above the limit."""
    message = f"the request line and headers exceed {limit_bytes} bytes; send shorter headers"
    return Refusal(Code.HEADERS_TOO_LARGE, message)


def not_metered(why: str) -> Refusal:
    """Return the refusal of a request that could not be counted."""
    message = f"the request cannot be metered now, so it is not served: {why}"
    return Refusal(Code.UNAVAILABLE, message, retry_after_s=_RETRY_AFTER_S)


def model_not_allowed(model: str) -> Refusal:
    """Return the refusal of a model that the key may not call."""
    message = (
        f"this key may not call the model {model[:100]!r}; GET /v1/models lists those that it may, "
        "or ask your project for a key that may"
    )
    return Refusal(Code.MODEL_NOT_ALLOWED, message, "model")


def blocked(what: str) -> Refusal:
    """Return the refusal of a key that was blocked, itself or with what it belongs to."""
    whose = "this key was" if what == "key" else f"the {what} of this key was"
    message = f"{whose} blocked; ask who runs this installation"
    return Refusal(Code.PERMISSION_DENIED, message)


def engine_failed(why: str) -> Refusal:
    """Return the refusal of a request whose engine did not finish its answer."""
    return Refusal(Code.UPSTREAM_ERROR, f"the model's engine failed: {why}; try again")


def model_not_found(model: str) -> Refusal:
    """Return the refusal of a model that this project has no deployment of."""
    message = (
        f"the model {model[:100]!r} does not exist in your project; GET /v1/models lists those "
        "that do"
    )
    return Refusal(Code.MODEL_NOT_FOUND, message, "model")


def replicas_full(route: Route, inflight_max: int) -> Refusal:
    """Return the refusal of a model whose replicas all have as many requests as they can hold."""
    message = (
        f"each replica of the model {route.model!r} has {inflight_max} requests in flight; "
        "try again, or scale the deployment up"
    )
    return Refusal(Code.NO_READY_REPLICA, message, "model", 1)


def queue_full(route: Route) -> Refusal:
    """Return the refusal of a request for which there is no place to wait."""
    wait_s = start_wait_s(route) or 1
    message = (
        f"the model {route.model!r} has no replica with room, and too many requests wait already; "
        f"try again in {wait_s} s"
    )
    return Refusal(Code.NO_READY_REPLICA, message, "model", wait_s)


def waited_in_vain(route: Route, waited_s: float) -> Refusal:
    """Return the refusal of a request that has waited for a start for as long as it may."""
    wait_s = start_wait_s(route) or _RETRY_AFTER_S
    message = (
        f"the model {route.model!r} is starting and was not ready within {waited_s:.0f} s; "
        f"try again in {wait_s} s"
    )
    return Refusal(Code.NO_READY_REPLICA, message, "model", wait_s)


def start_wait_s(route: Route) -> int | None:
    """Return how long the start of a replica should take from now, None when none is expected."""
    if route.retry_after_s is not None:
        return route.retry_after_s
    return max(1, math.ceil(route.start_ms / 1000)) if route.wakes else None


def no_ready_replica(route: Route) -> Refusal:
    """Return the refusal of a model that nothing serves at the moment, with an honest wait.

    Where nothing is being started it names no wait: nobody knows one.
    """
    wait_s = _RETRY_AFTER_S if route.replicas else start_wait_s(route)
    if route.replicas:
        message = f"no replica of the model {route.model!r} answers now; try again"
    elif wait_s is not None:
        message = f"the model {route.model!r} is starting; try again in {wait_s} s"
    else:
        message = (
            f"the model {route.model!r} has no ready replica and none is starting; see "
            f"'tramontane deployments get {route.model}'"
        )
    return Refusal(Code.NO_READY_REPLICA, message, "model", wait_s)
