"""The parts of the OpenAPI description that FastAPI cannot derive: the documents, and those of a push.

https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app import VERSION
from app.documents import INTERRUPTION_SCHEMA, OUTCOME_SCHEMA
from app.metrics import Endpoint
from app.web.problems import leaves, status_of

_TEXT: Final = {"type": "string"}
_ROW: Final[Mapping[str, Any]] = {
    **INTERRUPTION_SCHEMA,
    "recorded_at": {"type": "string", "format": "date-time"},
}

_SECURITY: Final = {
    "oidc": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An OIDC token of Google, as Pub/Sub push subscriptions send it.",
    }
}
_SCHEMAS: Final[Mapping[str, Any]] = {
    "Envelope": {
        "type": "object",
        "description": "Pub/Sub's wrapped push body; its data is a Cloud Logging entry, as JSON, in base64.",
        "required": ["message"],
        "properties": {
            "message": {
                "type": "object",
                "required": ["data"],
                "anyOf": [{"required": ["messageId"]}, {"required": ["message_id"]}],
                "properties": {
                    "data": {
                        "type": "string",
                        "contentEncoding": "base64",
                        "contentMediaType": "application/json",
                        "contentSchema": {"$ref": "#/components/schemas/LogEntry"},
                    },
                    "messageId": {"type": "string", "minLength": 1},
                    "message_id": {"type": "string", "minLength": 1},
                    "publishTime": {"type": "string", "format": "date-time"},
                    "attributes": {"type": "object", "additionalProperties": _TEXT},
                },
            },
            "subscription": _TEXT,
        },
    },
    "LogEntry": {
        "type": "object",
        "description": "Pub/Sub's unwrapped push body: the Cloud Logging entry itself.",
        "anyOf": [
            {"required": [field]}
            for field in ("protoPayload", "jsonPayload", "textPayload", "logName", "insertId")
        ],
        "properties": {
            "protoPayload": {
                "type": "object",
                "required": ["methodName"],
                "properties": {"methodName": _TEXT, "resourceName": _TEXT},
            },
            "insertId": _TEXT,
            "timestamp": {"type": "string", "format": "date-time"},
        },
    },
    "Outcome": {
        "type": "object",
        "required": ["outcome"],
        "properties": OUTCOME_SCHEMA,
    },
    "Problem": {
        "type": "object",
        "required": ["title", "status", "detail", "reason"],
        "properties": {"title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT, "reason": _TEXT},
    },
    "Interruptions": {
        "type": "object",
        "required": ["interruptions", "next"],
        "properties": {
            "interruptions": {"type": "array", "items": {"$ref": "#/components/schemas/Interruption"}},
            "next": {"type": ["string", "null"]},
        },
    },
    "Interruption": {
        "type": "object",
        "required": list(_ROW),
        "properties": _ROW,
    },
    "State": {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}},
}


def describe(app: FastAPI) -> None:
    """Add the documents to the OpenAPI description of the application."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(title=app.title, version=VERSION, routes=app.routes)
            components = app.openapi_schema.setdefault("components", {})
            components["schemas"] = {**components.get("schemas", {}), **_SCHEMAS}
            components["securitySchemes"] = _SECURITY
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def push_description(endpoint: Endpoint, *, authenticated: bool) -> Mapping[str, Any]:
    """Return the description of an endpoint's route, as FastAPI takes it."""
    document = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Envelope", "LogEntry")]}
    return {
        "operation_id": f"push_{endpoint}",
        "summary": f"Receive a pushed message of the {endpoint} topic",
        "description": "Answers 200 once the effect is durable. The method of an entry decides its meaning,"
        " not the endpoint that received it.",
        "response_model": None,
        "responses": {
            200: _response("The outcome of the message", "application/json", "Outcome"),
            **{
                status.value: _response(
                    f"{status.phrase}: {', '.join(reasons)}", "application/problem+json", "Problem"
                )
                for status, reasons in sorted(_reasons().items())
            },
        },
        "openapi_extra": {
            "security": [{"oidc": []}] if authenticated else [],
            "requestBody": {"required": True, "content": {"application/json": {"schema": document}}},
        },
    }


def _reasons() -> dict[HTTPStatus, list[str]]:
    reasons: dict[HTTPStatus, list[str]] = {HTTPStatus.METHOD_NOT_ALLOWED: ["`method_not_allowed`"]}
    for leaf in leaves():
        reasons.setdefault(status_of(leaf), []).append(f"`{leaf.reason}`")
    return reasons


def _response(description: str, media_type: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
