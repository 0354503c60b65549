"""`check`: whether the exporter could do its work here, a line a check. It changes nothing."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import httpx

from app.errors import ExporterError
from app.gcp.certificates import fetch_certificates
from app.settings import PubSubSettings, Settings
from app.store import inspect_store

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


async def _certificates(pubsub: PubSubSettings) -> Finding:
    if pubsub.authentication == "none":
        return True, "certificates", "not needed, for pushes are not authenticated"
    async with httpx.AsyncClient() as client:
        try:
            certificates = await fetch_certificates(client, pubsub.certs_url)
        except ExporterError as exc:
            return False, "certificates", str(exc)
    return True, "certificates", f"{len(certificates.keys)} keys at {pubsub.certs_url}"
