"""Replicas whose settings differ are named in the log, once."""

import logging
from typing import Any

import pytest

from app.domain.replicas import ReplicaSettings
from app.replica_settings import SettingsComparison

OWN = ReplicaSettings.make(["a", "b"], {"attribution.grace_seconds": 1800.0, "store.retention_days": 31})


def replica(**changes: Any) -> ReplicaSettings:  # noqa: ANN401 - a setting
    return ReplicaSettings({**OWN.values, **changes})


def warned(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """Return key, own value, replica and its value of each line so far, and forget them."""
    records: list[Any] = [record for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return [(record.key, record.own, record.replica, record.theirs) for record in records]


def test_each_setting_that_differs_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    comparison = SettingsComparison(OWN)
    others = {
        "one": replica(**{"attribution.grace_seconds": 60.0}),
        "two": replica(projects=["b", "c"]),
        "three": replica(),
    }

    comparison.compare(others)
    assert warned(caplog) == [
        ("attribution.grace_seconds", 1800.0, "one", 60.0),
        ("projects", ["a", "b"], "two", ["b", "c"]),
    ]
    comparison.compare(others)
    assert warned(caplog) == []


def test_a_setting_that_differs_again_is_named_again(caplog: pytest.LogCaptureFixture) -> None:
    comparison = SettingsComparison(OWN)
    other = {"one": replica(**{"store.retention_days": 8})}

    comparison.compare(other)
    comparison.compare({"one": replica()})
    comparison.compare(other)

    assert [key for key, *_ in warned(caplog)] == ["store.retention_days"] * 2


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({}, id="alone"),
        pytest.param({"one": ReplicaSettings.make(["b", "a"], dict(OWN.values))}, id="another-order"),
        pytest.param({"one": replica(of_a_later_version=1)}, id="an-unknown-setting"),
    ],
)
def test_equal_settings_are_not_named(
    caplog: pytest.LogCaptureFixture, others: dict[str, ReplicaSettings]
) -> None:
    SettingsComparison(OWN).compare(others)
    assert warned(caplog) == []
