"""The OpenAPI document of the inference paths, made from the forms that the gateway checks by.

The management API has its own at ``/cloud/v1/openapi.json``; this one is at ``/v1/openapi.json``.
"""

from functools import cache
from typing import Any, Final

import msgspec
import orjson

import tramontane
from tramontane.domain.refusal import Code
from tramontane.gateway.calls.forms import EMBEDDINGS, ENDPOINTS, Endpoint
from tramontane.wire import errors

PATH: Final = "/v1/openapi.json"
_TEMPLATE: Final = "#/components/schemas/{name}"
_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_TOKENS: Final = {"type": "integer", "minimum": 0}

_ERROR: Final = {
    "type": "object",
    "description": "Both dialects' error: Mistral's keys, and OpenAI's nested in `error`.",
    "required": ["object", "message", "type", "param", "code", "error"],
    "properties": {
        "object": {"const": "error"},
        "message": _TEXT,
        "type": _TEXT,
        "param": _MAYBE_TEXT,
        "code": _TEXT,
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": _MAYBE_TEXT,
                "code": _TEXT,
            },
        },
        "detail": {"type": "array", "items": {"type": "object"}},
    },
}
_USAGE: Final = {
    "type": "object",
    "required": ["prompt_tokens", "total_tokens"],
    "properties": {
        "prompt_tokens": _TOKENS,
        "completion_tokens": _TOKENS,
        "total_tokens": _TOKENS,
    },
}
_ANSWER: Final = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": _TEXT,
        "object": {"enum": ["chat.completion", "text_completion"]},
        "created": {"type": "integer"},
        "model": _TEXT,
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "finish_reason"],
                "properties": {"index": {"type": "integer"}, "finish_reason": _MAYBE_TEXT},
            },
        },
        "usage": {"$ref": "#/components/schemas/Usage"},
    },
}
_VECTORS: Final = {
    "type": "object",
    "required": ["id", "object", "model", "data"],
    "properties": {
        "id": _TEXT,
        "object": {"const": "list"},
        "model": _TEXT,
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"oneOf": [{"type": "array", "items": {"type": "number"}}, _TEXT]},
                },
            },
        },
        "usage": {"$ref": "#/components/schemas/Usage"},
    },
}
_CARD: Final = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "type", "capabilities"],
    "properties": {"id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"}},
}
_CARDS: Final = {
    "type": "object",
    "required": ["object", "data", "has_more"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        "has_more": {"type": "boolean"},
    },
}
_OF_ALL: Final = (Code.INVALID_API_KEY, Code.PERMISSION_DENIED, Code.UNAVAILABLE)
_OF_CALLS: Final = (
    Code.INVALID_VALUE,
    Code.MODEL_NOT_FOUND,
    Code.REQUEST_TIMEOUT,
    Code.BODY_TOO_LARGE,
    Code.RATE_LIMIT_EXCEEDED,
    Code.UPSTREAM_ERROR,
)


@cache
def document() -> bytes:
    """Return the document as JSON."""
    forms, schemas = msgspec.json.schema_components(
        [endpoint.form for endpoint in ENDPOINTS], ref_template=_TEMPLATE
    )
    paths: dict[str, Any] = {
        endpoint.path: {"post": _call(endpoint, form)}
        for endpoint, form in zip(ENDPOINTS, forms, strict=True)
    }
    paths["/v1/models"] = {"get": _look_up("models.list", "Models", ())}
    paths["/v1/models/{model}"] = {
        "get": _look_up("models.retrieve", "Model", (Code.MODEL_NOT_FOUND,)),
        "parameters": [{"name": "model", "in": "path", "required": True, "schema": _TEXT}],
    }
    components = {
        **schemas,
        "Error": _ERROR,
        "Usage": _USAGE,
        "Answer": _ANSWER,
        "Vectors": _VECTORS,
        "Model": _CARD,
        "Models": _CARDS,
    }
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Tramontane inference API", "version": tramontane.__version__},
            "security": [{"key": []}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _call(endpoint: Endpoint, form: dict[str, Any]) -> dict[str, Any]:
    is_text = endpoint is not EMBEDDINGS
    content = {"application/json": {"schema": _named("Answer" if is_text else "Vectors")}}
    if is_text:
        content["text/event-stream"] = {}
    done = {"description": "The answer; with `stream`, server-sent events.", "content": content}
    return {
        "operationId": endpoint.name,
        "requestBody": {"required": True, "content": {"application/json": {"schema": form}}},
        "responses": {"200": done, **_errors(_OF_ALL + _OF_CALLS)},
    }


def _look_up(name: str, schema: str, codes: tuple[Code, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": _named(schema)}}
    done = {"description": "Found.", "content": content}
    return {"operationId": name, "responses": {"200": done, **_errors(_OF_ALL + codes)}}


def _errors(codes: tuple[Code, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": _named("Error")}}
    statuses = sorted({errors.status_of(code) for code in codes})
    return {str(status): {"description": "Refused.", "content": content} for status in statuses}


def _named(schema: str) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(name=schema)}
