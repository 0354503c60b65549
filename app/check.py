"""`check`: whether the exporter could do its work here, a line a check. It changes nothing."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeAlias

import httpx

from app.errors import ExporterError, InventoryUnavailableError
from app.gcp.certificates import fetch_certificates
from app.gcp.listing import Summary, list_fleet
from app.settings import PubSubSettings, Settings
from app.store import SLICE, inspect_store

_PAGE_SECONDS: Final = 10.0
_FLEET_SECONDS: Final = 60.0
_FLEET_MIB: Final = 128
"""A page takes 87 MiB; and the container's limit is for a live exporter and its own listing, too."""

Finding: TypeAlias = tuple[bool, str, str]
"""Whether it is well, what was looked at, and what was found."""


def run_check(settings: Settings, path: Path | None, warnings: Sequence[str]) -> int:
    """Look at everything, print a line each, and give the exit code: 0 if all is well, else 1."""
    findings = []
    for well, subject, found in _findings(settings, path, warnings):
        findings.append(well)
        # SQLite tells of damage in several lines.
        sys.stdout.write(f"{'ok  ' if well else 'FAIL'}  {subject}: {' '.join(found.split())}\n")
        sys.stdout.flush()
    return 0 if all(findings) else 1


def _findings(settings: Settings, path: Path | None, warnings: Sequence[str]) -> Iterator[Finding]:
    yield True, "configuration", "defaults and environment" if path is None else f"{path} and environment"
    for warning in warnings:
        yield True, "warning", warning
    try:
        yield True, "store", inspect_store(settings.store.url)
    except ExporterError as exc:
        yield False, "store", str(exc)
    yield asyncio.run(_certificates(settings.pubsub))
    if not settings.inventory.enabled:
        yield True, "fleet", "not listed, for inventory.enabled is false"
    elif not settings.project_ids:
        yield True, "fleet", "not listed, for no project is named"
    else:
        for project in settings.project_ids:
            yield asyncio.run(_fleet(project, settings.inventory.endpoint))


async def _certificates(pubsub: PubSubSettings) -> Finding:
    if pubsub.authentication == "none":
        return True, "certificates", "not needed, for pushes are not authenticated"
    async with httpx.AsyncClient() as client:
        try:
            certificates = await fetch_certificates(client, pubsub.certs_url)
        except ExporterError as exc:
            return False, "certificates", str(exc)
    return True, "certificates", f"{len(certificates.keys)} keys at {pubsub.certs_url}"


async def _fleet(project: str, endpoint: str) -> Finding:
    subject = f"fleet of project {project}"
    listing = list_fleet(
        project,
        endpoint=endpoint,
        deadline_seconds=_FLEET_SECONDS,
        slice_size=SLICE,
        page_seconds=_PAGE_SECONDS,
        pages=1,
        memory_mib=_FLEET_MIB,
    )
    try:
        async with aclosing(listing) as parts:
            async for part in parts:
                if isinstance(part, Summary):
                    summary = part
    except InventoryUnavailableError as exc:
        return False, subject, str(exc)
    if summary.reason:
        return False, subject, summary.message
    found = f"at least {summary.instances} instances on the first page"
    unread = f"; {', '.join(sorted(summary.failed_zones))} not reachable" if summary.failed_zones else ""
    return True, subject, found + unread
