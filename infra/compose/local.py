#!/usr/bin/env python3
"""The one-shot commands of docker-compose.yaml: create the topics, publish the samples, show the counters.

Environment variables have the addresses of the services.
https://cloud.google.com/pubsub/docs/reference/rest
"""

import argparse
import base64
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

T = TypeVar("T")

_ENDPOINTS: Final = ("creation", "interruption")
_ANSWERS: Final = "spot_interruption_exporter_push_messages_total"
_PENDING: Final = "spot_interruption_exporter_pending_interruptions"
_COUNTED: Final = "interruption_events_total"
_LABEL: Final = "kubernetes_cluster"
_TIMEOUT_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 240.0
_POLL_SECONDS: Final = 0.2


class CommandError(Exception):
    """A command cannot be completed. The message says why."""


def main() -> int:
    """Run the command from the command line; return exit status 0, or 1 after a line on standard error."""
    commands = {"topics": _topics, "samples": _samples, "show": _show}
    parser = argparse.ArgumentParser(description="The one-shot commands of docker-compose.yaml.")
    parser.add_argument("command", choices=commands)
    # All services are local, so proxy settings of the environment do not apply.
    with httpx.Client(trust_env=False, timeout=10) as client:
        try:
            commands[parser.parse_args().command](client)
        except (CommandError, httpx.HTTPError) as exc:
            sys.stderr.write(f"{exc}\n")
            return 1
    return 0


def _topics(client: httpx.Client) -> None:
    """Create the topics and their push subscriptions unless they exist."""
    exporter = os.environ["EXPORTER_URL"]
    for endpoint in _ENDPOINTS:
        topic, subscription = f"topics/sie-{endpoint}", f"subscriptions/sie-{endpoint}-subscription"
        _create(client, topic, {})
        _create(
            client,
            subscription,
            {
                "topic": f"projects/{os.environ['PUBSUB_PROJECT_ID']}/{topic}",
                "ackDeadlineSeconds": 30,
                "pushConfig": {"pushEndpoint": f"{exporter}/events/{endpoint}"},
            },
        )


def _create(client: httpx.Client, name: str, body: dict[str, Any]) -> None:
    response = client.put(_pubsub(name), json=body)
    exists = response.status_code == httpx.codes.CONFLICT
    if not exists:
        response.raise_for_status()
    _print_line(f"{name}  {'exists' if exists else 'created'}")


def _samples(client: httpx.Client) -> None:
    """Publish the samples one after the other, and print the outcome of each."""
    matching = files("app.demo") / "samples"
    original = Path(__file__).parent / "samples"
    for folder in (original, matching):
        for endpoint in _ENDPOINTS:
            _publish(client, endpoint, folder / f"{endpoint}.json")
    # Only one replica shows pending interruptions, a few seconds after another replica has received them.
    _wait(
        lambda: any(sample.value for sample in _exposed(client, _PENDING)),
        error="no interruption is pending",
    )


def _publish(client: httpx.Client, endpoint: str, sample: Traversable) -> None:
    data = sample.read_bytes()
    before = _answers(client, endpoint)
    message = {"data": base64.b64encode(data).decode()}
    client.post(_pubsub(f"topics/sie-{endpoint}:publish"), json={"messages": [message]}).raise_for_status()
    outcomes = _wait(lambda: _answers(client, endpoint) - before, error=f"no answer to the {endpoint} sample")
    instance = json.loads(data)["protoPayload"]["resourceName"].rpartition("/")[2]
    _print_line(f"{endpoint:<12}  {instance:<38}  {' '.join(outcomes)}")


def _answers(client: httpx.Client, endpoint: str) -> Counter[str]:
    """Count an endpoint's pushes that all exporters have answered with 200, by outcome."""
    answers = Counter[str]()
    for sample in _exposed(client, _ANSWERS):
        if sample.labels["endpoint"] == endpoint:
            answers[sample.labels["outcome"]] += int(sample.value)
    return answers


def _exposed(client: httpx.Client, name: str) -> Iterator[Sample]:
    """Yield the samples of a metric that all exporters expose now."""
    for url in os.environ["METRICS_URLS"].split():
        for family in text_string_to_metric_families(client.get(url).raise_for_status().text):
            yield from (sample for sample in family.samples if sample.name == name)


def _show(client: httpx.Client) -> None:
    """Print Prometheus' values, and again after each change, until no interruption is pending."""
    began = time.time()
    scraped = f"count(timestamp(up) > {began}) == count(up)"
    _wait(lambda: _query(client, scraped), error="not every exporter was scraped")
    shown = ""

    def settled() -> bool:
        nonlocal shown
        # One query, so that an exporter's values come from the same scrape.
        samples = _query(client, f'sum by ({_LABEL}) ({{__name__=~"{_PENDING}|{_COUNTED}"}})')
        values: dict[str, str] = {sample["metric"].get(_LABEL, ""): sample["value"][1] for sample in samples}
        if "" not in values:
            return False  # another replica shows the pending interruptions now, and was not scraped yet
        pending = values.pop("")
        row = "  ".join(
            [f"pending {pending}", *(f"{cluster} {values[cluster]}" for cluster in sorted(values))]
        )
        if row != shown:
            _print_line(f"{time.strftime('%H:%M:%S')}  {row}")
        shown = row
        return pending == "0"

    # No grace period ends in the first two minutes of an exporter.
    _wait(settled, error="interruptions are still pending", seconds=_SETTLE_SECONDS)


def _query(client: httpx.Client, promql: str) -> list[dict[str, Any]]:
    """Run an instant query; return the samples of its vector."""
    answer = client.get(f"{os.environ['PROMETHEUS_URL']}/api/v1/query", params={"query": promql})
    samples: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
    return samples


def _pubsub(name: str) -> str:
    emulator, project = os.environ["PUBSUB_EMULATOR_HOST"], os.environ["PUBSUB_PROJECT_ID"]
    return f"http://{emulator}/v1/projects/{project}/{name}"


def _wait(probe: Callable[[], T], *, error: str, seconds: float = _TIMEOUT_SECONDS) -> T:
    """Return the probe's first truthy answer. Raises CommandError if there is none in this time."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise CommandError(f"{error} after {seconds:g} s; see `docker compose logs`")
        time.sleep(_POLL_SECONDS)
    return answer


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
