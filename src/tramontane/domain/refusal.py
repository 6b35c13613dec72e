"""Refusals: expected "no" answers, as values that travel up to one error table.

A `Refusal` says what was wrong, what was expected and what to do next. The table in
`wire/errors.py` turns its `code` into a status for the API and the gateway; nothing else does.
"""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Stable error codes: clients may match on them, so they never change meaning."""

    INVALID_REQUEST = "invalid_request"  # not well-formed HTTP
    INVALID_JSON = "invalid_json"
    INVALID_VALUE = "invalid_value"
    MISSING_REQUIRED_PARAMETER = "missing_required_parameter"
    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INVALID_API_KEY = "invalid_api_key"
    PERMISSION_DENIED = "permission_denied"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    NAME_TAKEN = "name_taken"
    CONFLICT = "conflict"
    IN_USE = "in_use"
    DIGEST_MISMATCH = "digest_mismatch"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_BY_ENGINE = "unsupported_by_engine"
    DOES_NOT_FIT = "does_not_fit"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    TOKEN_LIMIT_EXCEEDED = "token_limit_exceeded"  # noqa: S105 - told as rate_limit_exceeded
    INSUFFICIENT_QUOTA = "insufficient_quota"
    NO_READY_REPLICA = "no_ready_replica"
    UPSTREAM_ERROR = "upstream_error"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal_error"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. ``param`` names the field at fault; ``retry_after_s`` is when to try again."""

    code: Code
    message: str
    param: str | None = None
    retry_after_s: float | None = None


class RefusedError(Exception):
    """Carries a `Refusal` out of a write transaction, which is rolled back by it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refuse(
    code: Code, message: str, *, param: str | None = None, retry_after_s: float | None = None
) -> RefusedError:
    """Return the exception for a refusal, to be raised by the caller."""
    return RefusedError(Refusal(code, message, param, retry_after_s))
