"""The applications: each route with the object that handles it."""

from fastapi import FastAPI

from app.exporter import Exporter
from app.metrics import ENDPOINTS, Endpoint
from app.web.application import Application, make_application
from app.web.interruptions import add_interruptions
from app.web.openapi import describe, push_description
from app.web.ops import add_health, add_metrics
from app.web.push import PushEndpoint
from app.web.status.page import StatusPage, add_page


def create_app(exporter: Exporter) -> Application:
    """Return the main application, which an ingress reaches.

    With one listener it serves the metrics too; with two, `create_ops_app` makes the other application.
    """
    settings = exporter.settings
    app = make_application(exporter.metrics.refused_elsewhere)
    app.is_stopping = lambda: exporter.stopping
    if not exporter.direct_pushes:
        app.direct_endpoints = {}
    for endpoint in ENDPOINTS if settings.pubsub.delivery == "push" else ():
        description = push_description(endpoint, authenticated=settings.pubsub.authenticates_pushes)
        app.add_push(f"/events/{endpoint}", _push(exporter, endpoint), **description)
    add_health(app, exporter)
    if settings.one_listener:
        _add_ops(app, exporter)
    describe(app)
    return app


def create_ops_app(exporter: Exporter) -> Application:
    """Return the application of the metrics listener, if that has a port of its own."""
    app = make_application(exporter.metrics.refused_elsewhere, openapi_url=None)
    add_health(app, exporter)
    _add_ops(app, exporter)
    return app


def _add_ops(app: FastAPI, exporter: Exporter) -> None:
    add_metrics(app, exporter.metrics, exporter.settings.prometheus.path)
    add_interruptions(app, exporter.ledger)
    add_page(
        app,
        StatusPage(
            condition=exporter,
            metrics=exporter.metrics,
            ledger=exporter.ledger,
            clock=exporter.clock,
            metrics_path=exporter.settings.prometheus.path,
            listing_interval_seconds=exporter.settings.inventory.interval_seconds,
        ),
    )


def _push(exporter: Exporter, endpoint: Endpoint) -> PushEndpoint:
    pubsub = exporter.settings.pubsub
    subscriptions: dict[Endpoint, str] = {
        "creation": pubsub.instance_creation_subscription_name,
        "interruption": pubsub.instance_interruption_subscription_name,
    }
    return PushEndpoint(
        exporter.intake(endpoint),
        subscription=subscriptions[endpoint],
        authenticator=exporter.verification,
        gate=exporter.gate,
        max_body_bytes=exporter.settings.server.max_body_bytes,
    )
