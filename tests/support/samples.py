"""The samples of an exposition in Prometheus' text format."""

from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

Samples: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by the name and labels of the sample."""


def parsed(exposition: str) -> Samples:
    """Return every sample."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def value_of(exposition: str, name: str, **labels: str) -> float | None:
    """Return the value of a sample, or None if there is no such sample.

    Only the lines of that name are parsed, because the tests ask for a value until it is right.
    """
    lines = [line for line in exposition.split("\n") if line.startswith((f"{name}{{", f"{name} "))]
    return parsed("\n".join([*lines, ""])).get((name, frozenset(labels.items())))
