"""Outcomes and reasons in plain English: their slugs are for metrics and programs."""

from collections.abc import Callable, Mapping
from typing import Final

from app.web.status.formats import count, count_noun

OUTCOMES: Final[Mapping[str, tuple[str, str]]] = {
    "tracked": ("instance tracked", "instances tracked"),
    "counted": ("interruption counted", "interruptions counted"),
    "pending": ("interruption pending", "interruptions pending"),
    "ended": ("instance ended", "instances ended"),
    "duplicate": ("duplicate", "duplicates"),
    "ignored": ("message ignored", "messages ignored"),
}
REFUSALS: Final[Mapping[str, str]] = {
    "not_authenticated": "without a valid token",
    "not_permitted": "from an account that may not push",
    "wrong_subscription": "from another subscription",
    "malformed_envelope": "without a Pub/Sub envelope or a log entry",
    "malformed_entry": "with a log entry that cannot be read",
    "body_too_large": "with a body that is too large",
    "body_timeout": "with a body that did not arrive in time",
    "certificates_unavailable": "because Google's certificates could not be fetched",
    "store_unavailable": "because the store could not be used",
    "store_corrupt": "because the store is damaged",
    "store_gone": "because the store file was deleted or replaced",
    "name_taken": "because another process uses this replica's name",
    "store_slow": "because the store was too slow",
    "overload": "because too many events were queued",
    "stopping": "because the exporter was stopping",
    "internal": "because of a bug in the exporter",
}
LISTING_FAILURES: Final[Mapping[str, str]] = {
    "forbidden": "the permission compute.instances.list is missing",
    "api_disabled": "the Compute Engine API is not enabled",
    "rate_limited": "the Compute Engine API limited the rate",
    "unavailable": "the Compute Engine API was unavailable",
    "not_found": "the project does not exist or is not visible",
    "credentials": "no usable Google Cloud credentials",
    "malformed": "the answer was not a list of instances",
    "partial": "a part of the fleet was not in the answer",
    "memory": "the fleet needed more memory than allowed",
    "other": "an unexpected error",
    "deadline": "it took too long",
    "cut_off": "it stopped before its end",
    "store": "the store could not be used",
}
_LISTING_ADVICE: Final[Mapping[str, str]] = {
    "forbidden": "Grant the exporter the permission compute.instances.list in the project.",
    "api_disabled": "Enable compute.googleapis.com in the project.",
    "credentials": "Check the exporter's Google Cloud credentials.",
    "not_found": "Check the project id in the configuration.",
    "rate_limited": "Raise inventory.interval_seconds, or the project's read quota.",
    "unavailable": "Check that the exporter can reach the Compute Engine API.",
    "malformed": "Check that no proxy answers instead of the Compute Engine API.",
    "store": "Check the store's disk or its server.",
}
"""The other reasons have a cause that only the log names, or end by themselves."""


def outcomes(numbers: Mapping[str, float]) -> str:
    """Return the outcomes above 0, the largest number first: `3 instances tracked, 1 message ignored`."""
    return _listed(numbers, lambda number, slug: count_noun(number, *OUTCOMES.get(slug, (_spelt(slug),) * 2)))


def refusals(numbers: Mapping[str, float]) -> str:
    """Return the reasons above 0, the largest number first: `5 without a valid token`."""
    return _listed(numbers, lambda number, slug: f"{count(number)} {REFUSALS.get(slug, _spelt(slug))}")


def listing_failures(numbers: Mapping[str, float]) -> str:
    """Return a sentence about failed listings, or nothing if none failed.

    `1 listing failed since the start: no usable Google Cloud credentials.`
    With several reasons, each is followed by its number.
    """
    failures = {slug: number for slug, number in numbers.items() if number}
    if not failures:
        return ""
    several_reasons = len(failures) > 1
    reasons = _listed(
        failures,
        lambda number, slug: (
            LISTING_FAILURES.get(slug, _spelt(slug)) + (f" ({count(number)})" if several_reasons else "")
        ),
    )
    return f"{count_noun(sum(failures.values()), 'listing')} failed since the start: {reasons}."


def listing_advice(numbers: Mapping[str, float]) -> str:
    """Return a sentence of advice per reason above 0, the largest number first; nothing for some reasons."""
    return " ".join(_LISTING_ADVICE[slug] for slug, _ in _largest_first(numbers) if slug in _LISTING_ADVICE)


def _listed(numbers: Mapping[str, float], phrase: Callable[[float, str], str]) -> str:
    return ", ".join(phrase(number, slug) for slug, number in _largest_first(numbers))


def _largest_first(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the slugs whose number is above 0, the largest number first."""
    above_0 = [(slug, number) for slug, number in numbers.items() if number]
    return sorted(above_0, key=lambda pair: (-pair[1], pair[0]))


def _spelt(slug: str) -> str:
    return slug.replace("_", " ")
