"""The command `check`: test everything that the exporter needs, one line per finding. It changes nothing."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

from app.domain.quantities import quantity
from app.errors import ExporterError, InventoryUnavailableError
from app.gcp.certificates import fetch_certificates
from app.gcp.client import make_client
from app.gcp.listing import Resource, Summary, read_project
from app.settings import PubSubSettings, Settings, StoreSettings
from app.store.opening import inspect_store, store_warnings
from app.store.port import SLICE

PAGE_SECONDS: Final = 10.0
_SUBSCRIPTION_SECONDS: Final = 10.0
_FLEET_SECONDS: Final = 60.0
_FLEET_MIB: Final = 128
"""Enough for a page. A live exporter and its own listing share the container's memory with it."""

Grade: TypeAlias = Literal["ok", "warn", "FAIL"]
Finding: TypeAlias = tuple[Grade, str, str]
"""A grade, the subject, and the result of looking at it."""
_FirstPage: TypeAlias = Callable[[Resource], Awaitable[Summary]]


def run_check(
    settings: Settings, path: Path | None, warnings: Sequence[str], *, page_seconds: float = PAGE_SECONDS
) -> int:
    """Print one line per finding, and return the exit code: 1 if one is `FAIL`, else 0.

    `page_seconds`: the time after which a page of the fleet counts as failed.
    """
    failed = False
    for grade, subject, found in _findings(settings, path, warnings, page_seconds):
        failed = failed or grade == "FAIL"
        # SQLite reports damage in several lines.
        sys.stdout.write(f"{grade:4}  {subject}: {' '.join(found.split())}\n")
        sys.stdout.flush()
    return 1 if failed else 0


def _findings(
    settings: Settings, path: Path | None, warnings: Sequence[str], page_seconds: float
) -> Iterator[Finding]:
    yield "ok", "configuration", "defaults and environment" if path is None else f"{path} and environment"
    for warning in warnings:
        yield "warn", "configuration", warning
    yield from _store(settings.store)
    if settings.pubsub.delivery == "pull":
        yield from _subscriptions(settings.pulled_subscriptions)
    else:
        yield asyncio.run(_certificates(settings.pubsub))
    if not settings.inventory.enabled:
        yield "ok", "fleet", "not listed, because inventory.enabled is false"
    elif not settings.project_ids:
        yield "ok", "fleet", "not listed, because no project is named"
    else:
        for project in settings.project_ids:
            first_page = partial(_first_page, project, settings.inventory.endpoint, page_seconds)
            yield asyncio.run(_fleet(project, first_page))
            if settings.recovery.enabled:
                yield asyncio.run(_operations(project, first_page))


def _store(store: StoreSettings) -> Iterator[Finding]:
    try:
        yield "ok", "store", inspect_store(store.url, store.key_prefix)
    except ExporterError as exc:
        yield "FAIL", "store", str(exc)
        return
    for warning in store_warnings(store.url, store.replica, store.key_prefix):
        yield "warn", "store", warning


def _subscriptions(names: Sequence[str]) -> Iterator[Finding]:
    try:
        from app.gcp.subscriber import examine, make_subscriber  # noqa: PLC0415 - of an extra
    except ModuleNotFoundError as exc:
        yield (
            "FAIL",
            "subscriptions",
            f"{exc.name} is not installed; install it with pip install '.[pull]' in the checkout",
        )
        return
    try:
        client = make_subscriber()
    except ExporterError as exc:
        yield "FAIL", "subscriptions", str(exc)
        return
    with client:
        for name in names:
            state, message = examine(client, name, _SUBSCRIPTION_SECONDS)
            # Who may pull may lack the permission to look; to try would take messages.
            grade: Grade = "ok" if state == "ok" else "warn" if state == "forbidden" else "FAIL"
            yield grade, f"subscription {name}", message or "exists, and does not push"


async def _certificates(pubsub: PubSubSettings) -> Finding:
    if pubsub.authentication == "none":
        return "ok", "certificates", "not needed, because pushes are not authenticated"
    try:
        async with make_client(pubsub.certs_url) as client:
            certificates = await fetch_certificates(client, pubsub.certs_url)
    except ExporterError as exc:
        return "FAIL", "certificates", str(exc)
    return "ok", "certificates", f"{quantity(len(certificates.keys), 'key')} at {pubsub.certs_url}"


async def _fleet(project: str, first_page: _FirstPage) -> Finding:
    subject = f"fleet of project {project}"
    try:
        summary = await first_page("instances")
    except InventoryUnavailableError as exc:
        return "FAIL", subject, str(exc)
    if summary.reason:
        return "FAIL", subject, summary.message
    found = f"{quantity(summary.entries, 'instance')} on the first page"
    if summary.failed_zones:
        return "warn", subject, f"{found}; {', '.join(sorted(summary.failed_zones))} not reachable"
    return "ok", subject, found


async def _operations(project: str, first_page: _FirstPage) -> Finding:
    # The exporter runs without them, and counts only what is pushed.
    subject = f"operations of project {project}"
    try:
        summary = await first_page("operations")
    except InventoryUnavailableError as exc:
        return "warn", subject, str(exc)
    if summary.reason:
        return "warn", subject, summary.message
    return "ok", subject, f"{quantity(summary.entries, 'preemption')} on the first page"


async def _first_page(project: str, endpoint: str, page_seconds: float, resource: Resource) -> Summary:
    reading = read_project(
        project,
        resource,
        endpoint=endpoint,
        deadline_seconds=_FLEET_SECONDS,
        max_lines=SLICE,
        page_seconds=page_seconds,
        pages=1,
        memory_mib=_FLEET_MIB,
    )
    async with aclosing(reading) as parts:
        async for part in parts:
            if isinstance(part, Summary):
                summary = part
    return summary
