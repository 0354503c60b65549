import base64
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.message import Message
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.support.emulator import EmulatorError, PubSubEmulator
from tests.support.process import LOOPBACK, ExitedError, Process, answers, eventually, free_port, listens
from tests.support.prometheus import Prometheus, QueryError, Target
from tests.support.requirement import require

ENTRY = b'{"insertId": "1"}\n'
SINK = {"logging.googleapis.com/timestamp": "2024-05-01T10:00:00Z"}


class Push(NamedTuple):
    at: float
    headers: Message
    body: bytes


class Endpoint(http.server.ThreadingHTTPServer):
    """Serves constant metrics, and fails the first `failures` pushes to a path."""

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Handler)
        self.url = f"http://{LOOPBACK}:{self.server_port}"
        self.pushes: defaultdict[str, list[Push]] = defaultdict(list)
        self.failures: Counter[str] = Counter()

    def pushed(self, path: str, n: int = 1) -> list[Push]:
        def enough() -> list[Push] | None:
            return self.pushes[path] if len(self.pushes[path]) >= n else None

        return eventually(enough, within=20, what=f"{n} pushes to {path}")


class Handler(http.server.BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'# TYPE pots counter\npots_total{tea="mint"} 3\npots_total{tea="black"} 4\n')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        pushes = self.server.pushes[self.path]
        pushes.append(Push(time.monotonic(), self.headers, body))
        self.send_response(503 if len(pushes) <= self.server.failures[self.path] else 204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        pass


@contextmanager
def serving() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serving() as server:
        yield server


class Scrapers(NamedTuple):
    """Three servers of Prometheus. They start together, because each needs 5 s to its first scrape."""

    steady: Prometheus
    moving: Prometheus
    """Nothing listens at its target."""
    fading: Prometheus
    """The test ends its target."""
    target: ExitStack
    """The target of `fading`, until it is closed."""


@pytest.fixture(scope="module")
def scrapers(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrapers]:
    directories = [tmp_path_factory.mktemp("prometheus") for _ in range(3)]
    rules = directories[0] / "rules.yml"
    rule = {"record": "tea:pots:sum", "expr": "sum by (shop) (pots_total)"}
    rules.write_text(json.dumps({"groups": [{"name": "tea", "rules": [rule]}]}))
    corner = Target(f"{LOOPBACK}:{endpoint.server_port}", {"shop": "corner", "job": "teashop"})
    nothing = Target(f"{LOOPBACK}:{free_port()}")
    with ExitStack() as until_gone:
        passing = Target(f"{LOOPBACK}:{until_gone.enter_context(serving()).server_port}")
        with (
            Prometheus(directories[0], [corner], rules=[rules]) as steady,
            Prometheus(directories[1], [nothing], scrape_interval=0.2) as moving,
            Prometheus(directories[2], [passing], scrape_interval=0.2) as fading,
        ):
            steady.wait_for_scrapes(2)
            yield Scrapers(steady, moving, fading, until_gone)


@pytest.fixture(scope="module")
def prometheus(scrapers: Scrapers) -> Prometheus:
    return scrapers.steady


@pytest.fixture(scope="module")
def pubsub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubEmulator]:
    with PubSubEmulator(tmp_path_factory.mktemp("pubsub"), project="teashop") as emulator:
        yield emulator


@pytest.fixture
def port() -> int:
    return free_port()


def web_server(tmp_path: Path, port: int, *, by: str = 'exec "$@"') -> Process:
    """Return Python's web server, started by a line of shell."""
    server = [sys.executable, "-m", "http.server", "--bind", LOOPBACK, str(port)]
    ready = answers(f"http://{LOOPBACK}:{port}/")
    return Process(["sh", "-c", by, "sh", *server], output=tmp_path / "output", ready=ready)


def never() -> bool:
    return False


def test_a_process_is_ready_when_started_and_has_ended_when_stopped(tmp_path: Path, port: int) -> None:
    with web_server(tmp_path, port):
        assert listens(port)()
    assert not listens(port)()


def test_a_killed_process_starts_again_on_its_port(tmp_path: Path, port: int) -> None:
    with web_server(tmp_path, port) as process:
        pid, text = process.pid, process.text()
        assert process.kill() == -signal.SIGKILL
        assert not listens(port)()

        process.start()
        assert listens(port)()
        assert process.pid != pid
        assert process.text().startswith(text)


def test_a_process_is_stopped_by_sigterm(tmp_path: Path, port: int) -> None:
    with web_server(tmp_path, port) as process:
        assert process.stop() == -signal.SIGTERM


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, port: int) -> None:
    with web_server(tmp_path, port, by='trap "" TERM; exec "$@"') as process:
        assert process.stop(within=0.05) == -signal.SIGKILL


def test_children_of_a_process_end_with_it(tmp_path: Path, port: int) -> None:
    with web_server(tmp_path, port, by='"$@" & exec sleep 600'):
        assert listens(port)()
    eventually(lambda: not listens(port)(), within=5, what="the end of the child")


def test_a_process_that_ends_is_noticed_at_once_with_its_output(tmp_path: Path, port: int) -> None:
    process = web_server(tmp_path, port, by="echo no kettle; exit 3")

    with pytest.raises(ExitedError, match=r"ended with status 3; its output:\nno kettle"):
        process.start()


def test_a_process_that_ended_since_has_no_id(tmp_path: Path, port: int) -> None:
    with web_server(tmp_path, port) as process:
        os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(ExitedError, match="ended with status -9"):
            eventually(lambda: not process.pid, within=5, what="its end")


def test_a_process_that_ended_by_itself_is_stopped_with_its_own_status(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    command = ["sh", "-c", f"echo ready; while [ ! -e {ended} ]; do sleep 0.02; done; exit 3"]
    output = tmp_path / "output"
    with Process(command, output=output, ready=lambda: "ready" in output.read_text()) as process:
        pid = process.pid
        ended.touch()
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", within=5, what="its end")

        assert process.stop() == 3


def test_a_process_that_is_sent_a_signal_is_waited_for(tmp_path: Path) -> None:
    output = tmp_path / "output"
    command = ["sh", "-c", 'trap "exit 4" INT; echo ready; while :; do sleep 0.02; done']
    with Process(command, output=output, ready=lambda: "ready" in output.read_text()) as process:
        with pytest.raises(TimeoutError):
            process.wait(within=0.02)

        process.send(signal.SIGINT)
        assert process.wait() == 4


def test_a_process_that_does_not_get_ready_is_killed(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "echo $$; sleep 600"], output=tmp_path / "output", ready=never, within=0.1)

    with pytest.raises(TimeoutError, match=r"not within 0\.1 s"):
        process.start()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.text()), 0)


def test_a_wait_that_times_out_names_its_condition() -> None:
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: the kettle boils; the last answer was \[\]"):
        eventually(list[str], within=0.01, what="the kettle boils")


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("", pytest.skip.Exception), ("true", pytest.fail.Exception)],
    ids=["here-it-skips", "in-ci-it-fails"],
)
def test_a_missing_program(ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)

    # Either is caught: a skip that came out of here would only skip this test.
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="needs a kettle") as caught:
        require("a kettle", None)
    assert caught.type is outcome
    assert require("a pot", "pot") == "pot"


def test_prometheus_answers_for_what_it_scraped(prometheus: Prometheus, endpoint: Endpoint) -> None:
    [sample] = prometheus.query('pots_total{tea="mint"}')

    assert sample.value == 3
    assert sample.labels == {
        "__name__": "pots_total",
        "instance": f"{LOOPBACK}:{endpoint.server_port}",
        "job": "teashop",
        "shop": "corner",
        "tea": "mint",
    }


def test_prometheus_gives_one_value_or_none_or_complains(prometheus: Prometheus) -> None:
    assert prometheus.value("sum(pots_total)") == 7
    assert prometheus.value("scalar(sum(pots_total))") == 7
    assert prometheus.value("coffee_total") is None
    assert prometheus.value("sum(pots_total)", time=1_000_000_000) is None
    with pytest.raises(QueryError, match="2 values"):
        prometheus.value("pots_total")
    with pytest.raises(QueryError, match="parse error"):
        prometheus.value("pots_total{")


def test_prometheus_has_a_raw_sample_of_each_scrape(prometheus: Prometheus) -> None:
    called = time.time()
    prometheus.wait_for_scrapes(2)

    [series] = prometheus.raw('pots_total{tea="black"}', 60)
    times = [at for at, _ in series.samples]
    assert len(times) >= 4
    assert len([at for at in times if at > called]) >= 2
    assert {value for _, value in series.samples} == {4}
    assert all(earlier < later for earlier, later in pairwise(times))


def test_prometheus_evaluates_the_rule_files(prometheus: Prometheus) -> None:
    found = eventually(lambda: prometheus.query("tea:pots:sum"), within=10, what="the rule's series")

    assert found == [({"__name__": "tea:pots:sum", "shop": "corner"}, 7)]


def test_prometheus_follows_a_target_that_moved(endpoint: Endpoint, scrapers: Scrapers) -> None:
    server = scrapers.moving
    server.wait_for_scrapes(successful=False)
    assert server.value("up") == 0
    with pytest.raises(TimeoutError):
        server.wait_for_scrapes(within=0.1)
    with pytest.raises(QueryError, match="has succeeded"):
        server.last_scrape()

    server.retarget([Target(f"{LOOPBACK}:{endpoint.server_port}")])
    server.wait_for_scrapes()
    assert server.value("sum(pots_total)") == 7


def test_prometheus_has_what_it_saw_last_when_the_next_scrape_fails(scrapers: Scrapers) -> None:
    server = scrapers.fading
    server.wait_for_scrapes()
    scrapers.target.close()
    server.wait_for_scrapes(successful=False)

    assert server.value("sum(pots_total)") is None
    assert server.value("sum(pots_total)", server.last_scrape()) == 7


def test_a_message_is_pushed_in_its_envelope(pubsub: PubSubEmulator, endpoint: Endpoint) -> None:
    pubsub.create_topic("enveloped")
    pubsub.create_push_subscription("by-default", "enveloped", f"{endpoint.url}/by-default")
    pubsub.create_push_subscription("wrapped", "enveloped", f"{endpoint.url}/wrapped", unwrapped=False)
    message_id = pubsub.publish("enveloped", ENTRY, SINK)

    for path in ("/by-default", "/wrapped"):
        [push] = endpoint.pushed(path)
        envelope = json.loads(push.body)
        assert envelope["subscription"] == f"projects/teashop/subscriptions{path}"
        assert envelope["message"]["messageId"] == message_id
        assert base64.b64decode(envelope["message"]["data"]) == ENTRY
        assert envelope["message"]["attributes"] == SINK
        assert "deliveryAttempt" not in envelope
        assert "Authorization" not in push.headers


@pytest.mark.parametrize("metadata", [False, True], ids=["bare", "with-metadata"])
def test_a_message_is_pushed_unwrapped(pubsub: PubSubEmulator, endpoint: Endpoint, *, metadata: bool) -> None:
    name = f"unwrapped-{metadata}"
    pubsub.create_topic(name)
    pubsub.create_push_subscription(
        name, name, f"{endpoint.url}/{name}", unwrapped=True, write_metadata=metadata
    )
    message_id = pubsub.publish(name, ENTRY, SINK)

    [push] = endpoint.pushed(f"/{name}")
    assert push.body == ENTRY
    assert push.headers["content-type"] == "application/x-www-form-urlencoded"
    assert push.headers["x-goog-pubsub-message-id"] == (message_id if metadata else None)


def test_a_failed_push_is_repeated_until_it_succeeds(pubsub: PubSubEmulator, endpoint: Endpoint) -> None:
    endpoint.failures["/flaky"] = 2
    pubsub.create_topic("flaky")
    pubsub.create_push_subscription("flaky", "flaky", f"{endpoint.url}/flaky")
    message_id = pubsub.publish("flaky", ENTRY)

    pushes = endpoint.pushed("/flaky", 3)
    assert [json.loads(push.body)["message"]["messageId"] for push in pushes] == [message_id] * 3


def test_a_message_that_always_fails_is_dead_lettered_after_five_pushes(
    pubsub: PubSubEmulator, endpoint: Endpoint
) -> None:
    endpoint.failures["/failing"] = 1_000
    pubsub.create_topic("failing")
    pubsub.create_topic("dead-letters")
    pubsub.create_pull_subscription("dead-letters", "dead-letters")
    pubsub.create_push_subscription(
        "failing", "failing", f"{endpoint.url}/failing", dead_letter_topic="dead-letters"
    )
    pubsub.publish("failing", ENTRY, SINK)

    [dead] = eventually(lambda: pubsub.pull("dead-letters"), within=30, what="a dead letter")
    assert dead.data == ENTRY
    assert dead.attributes.items() >= SINK.items()
    assert dead.attributes["CloudPubSubDeadLetterSourceSubscription"] == "failing"
    assert dead.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
    assert len(endpoint.pushes["/failing"]) == 5


def test_an_acknowledged_message_is_not_pulled_again(pubsub: PubSubEmulator) -> None:
    pubsub.create_topic("pulled")
    pubsub.create_pull_subscription("pulled", "pulled")
    acknowledged, released = (pubsub.publish("pulled", ENTRY) for _ in range(2))
    messages = {message.message_id: message for message in pubsub.pull("pulled")}
    assert messages.keys() == {acknowledged, released}

    pubsub.acknowledge("pulled", messages[acknowledged])
    pubsub.release("pulled", *messages.values())
    [again] = eventually(lambda: pubsub.pull("pulled"), within=10, what="the released message")
    assert again.message_id == released


def test_a_subscription_is_created_with_its_options(pubsub: PubSubEmulator) -> None:
    pubsub.create_topic("optional")
    pubsub.create_pull_subscription(
        "optional",
        "optional",
        ack_deadline=60,
        dead_letter_topic="optional",
        max_delivery_attempts=7,
        min_backoff=0.5,
        max_backoff=600,
    )

    url = f"{pubsub.url}/v1/projects/teashop/subscriptions/optional"
    created = httpx.get(url, trust_env=False, timeout=60).json()
    assert created["ackDeadlineSeconds"] == 60
    assert created["deadLetterPolicy"] == {
        "deadLetterTopic": "projects/teashop/topics/optional",
        "maxDeliveryAttempts": 7,
    }
    assert created["retryPolicy"] == {"minimumBackoff": "0.500s", "maximumBackoff": "600s"}


def test_a_retry_policy_delays_redelivery(pubsub: PubSubEmulator, endpoint: Endpoint) -> None:
    endpoint.failures["/patient"] = 2
    pubsub.create_topic("patient")
    pubsub.create_push_subscription(
        "patient", "patient", f"{endpoint.url}/patient", ack_deadline=20, min_backoff=1, max_backoff=2
    )
    pubsub.publish("patient", ENTRY)

    # The emulator does not hold back the first repetition.
    _, second, third = endpoint.pushed("/patient", 3)
    assert third.at - second.at > 1.5


def test_a_refusal_of_the_emulator_has_its_reason(pubsub: PubSubEmulator) -> None:
    pubsub.create_topic("attempts")
    with pytest.raises(EmulatorError, match=r"400 to PUT topics/ab: .*INVALID_ARGUMENT"):
        pubsub.create_topic("ab")
    with pytest.raises(EmulatorError, match="too small"):
        pubsub.create_pull_subscription(
            "attempts", "attempts", dead_letter_topic="attempts", max_delivery_attempts=3
        )
