import re
import threading
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest

from app import DOCS_URL
from app.domain.events import InstanceInterrupted, InstanceName, InterruptionDetails
from app.domain.ledger import DAY_SECONDS, HOUR_SECONDS, LabelSetWeek, LedgerEntry, PoolWeek, Query
from app.domain.totals import LabelSetTotals
from app.store.opening import open_store
from app.store.port import LedgerReader, OpenedStore
from app.web.status.formats import DASH
from app.web.status.page import NEWEST
from tests.support.clock import Clock
from tests.support.entries import made_id
from tests.support.exporter import Exporter, token
from tests.support.ledgers import remember
from tests.support.pages import StatusPage

NOW: Final = 1_772_451_656.0
HOSTILE: Final = [
    '"><script>alert(1)</script>',
    "' onload='alert(1)",
    "</title></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "\N{FIRE}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}é",
    "x" * 512,
]


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def clocked(tmp_path: Path, clock: Clock) -> Iterator[Exporter]:
    with Exporter(tmp_path, two_listeners=True, clock=clock) as exporter:
        yield exporter


def stamp(ago: float) -> str:
    return datetime.fromtimestamp(NOW - ago, UTC).isoformat().replace("+00:00", "Z")


def read(exporter: Exporter) -> StatusPage:
    response = exporter.client.get(f"{exporter.metrics_url}/")
    assert response.status_code == HTTPStatus.OK, response.text
    return StatusPage(response.text)


def live(exporter: Exporter, name: str, *, ago: float, **fields: str) -> None:
    """Create a VM, `ago` seconds before now."""
    assert exporter.create(name, timestamp=stamp(ago), **fields).json()["outcome"] == "tracked"


def lose(exporter: Exporter, name: str, *, ago: float, age: float, **fields: str) -> None:
    """Create and interrupt a VM, `ago` seconds before now, at that age."""
    live(exporter, name, ago=ago + age, **fields)
    where = {key: value for key, value in fields.items() if key in {"project", "zone"}}
    assert exporter.interrupt(name, timestamp=stamp(ago), **where).json()["outcome"] == "counted"


def test_a_browser_may_load_and_run_nothing(shared_exporter: Exporter) -> None:
    response = shared_exporter.client.get(f"{shared_exporter.url}/")
    (style,) = StatusPage(response.text).texts["style"]
    policy = dict(
        part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";")
    )
    raw = response.text.split("<style>")[1].split("</style>")[0]

    assert style
    assert policy.pop("style-src") == f"'sha256-{b64encode(sha256(raw.encode()).digest()).decode()}'"
    assert policy.pop("img-src") == "data:"
    assert policy == dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "back"),
    [
        *((text, back) for text in ("text", "muted", "link") for back in ("card", "page")),
        ("text", "faint"),
        ("ok", "card"),
        ("warn-text", "card"),
        ("warn-text", "warn-back"),
        ("text", "warn-back"),
    ],
)
def test_texts_can_be_read_on_what_is_behind_them(scheme: str, text: str, back: str) -> None:
    """https://www.w3.org/TR/WCAG22/#contrast-minimum"""
    style = files("app.web.status").joinpath("templates", "page.css").read_text()
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", roots[scheme == "dark"]))
    light, dark = sorted((luminance(colours[text]), luminance(colours[back])), reverse=True)

    assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    pairs = [digit * 2 for digit in digits] if len(digits) == 3 else re.findall("..", digits)
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (int(pair, 16) / 255 for pair in pairs)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_an_exporter_that_knows_nothing_says_what_to_check(shared_exporter: Exporter) -> None:
    page = read(shared_exporter)

    assert "No Spot instance is known yet" in page.texts["h2"]
    assert "spot-interruption-exporter check" in page.texts["code"]
    assert "newest" not in page.tables
    assert page.attention == []
    assert page.finding("Pushes of creations") == "No push since the start."
    assert (
        page.finding("Fleet")
        == "The fleet is not listed: no project is configured, or inventory.enabled is false."
    )


def test_its_links_work_and_lead_nowhere_else_but_to_the_documentation(tmp_path: Path, clock: Clock) -> None:
    settings = {"prometheus.path": "/federated/metrics"}
    with Exporter(tmp_path, settings, two_listeners=True, clock=clock) as exporter:
        lose(exporter, "node-1", ago=60, age=60, cluster="a&b=c d/é")
        found = read(exporter).links
        assert {"/federated/metrics", "/interruptions", "/healthz", "/readyz"} < set(found)
        assert {f"{DOCS_URL}/index.md", f"{DOCS_URL}/runbook.md#runbook"} < set(found)
        (of_the_cluster,) = [link for link in found if "cluster=" in link]
        for link in set(found) - {of_the_cluster}:
            if not link.startswith(("data:image/svg+xml,", DOCS_URL)):
                assert link.startswith("/")
                assert exporter.client.get(f"{exporter.metrics_url}{link}").is_success, link
        assert urlsplit(of_the_cluster).path == "/interruptions"
        assert parse_qs(urlsplit(of_the_cluster).query, strict_parsing=True) == {
            "project": ["shop-prod"],
            "location": ["europe-west1"],
            "cluster": ["a&b=c d/é"],
        }


def test_a_trouble_links_to_its_section_of_the_runbook_and_stands_there_once(clocked: Exporter) -> None:
    for _ in range(5):
        clocked.post("creation", b"{}", authorization=token(audience="https://elsewhere.example.com"))
    page = read(clocked)
    trouble = page.texts["li"][0]

    assert f"{DOCS_URL}/runbook.md#spotinterruptionexporterpushesunauthenticated" in page.links
    assert "5 of 5 pushes since the start: 5 without a valid token." in trouble
    assert page.texts["td"].count("See above") == 1
    assert "#attention" in page.links


def test_figures_are_those_of_what_was_pushed(clocked: Exporter, clock: Clock) -> None:
    lose(clocked, "a-1", ago=120, age=3 * HOUR_SECONDS + 720)
    lose(clocked, "a-2", ago=5 * HOUR_SECONDS, age=600)
    lose(clocked, "a-3", ago=3 * DAY_SECONDS, age=2 * DAY_SECONDS)
    lose(clocked, "a-4", ago=8 * DAY_SECONDS, age=60)
    lose(clocked, "b-1", ago=6 * DAY_SECONDS, age=60, node_pool="gpu", machine_type="g2-standard-12")
    live(clocked, "b-2", ago=60, node_pool="gpu", machine_type="g2-standard-12")
    for number in range(20):
        live(clocked, f"c-{number}", ago=60, cluster="lab", cluster_location="us-east1", zone="us-east1-b")
    clock.ahead += 60
    page = read(clocked)

    assert page.tiles == {
        "Live Spot instances": "21",
        "Last hour": "1",
        "Last day": "2",
        "Last 7 days": "4",
        "Rate": DASH,
        "Unknown": "0 %",
        "Pending": "0",
    }
    assert [row[:5] for row in page.tables["pools"][1:]] == [
        ["tills europe-west1 · shop-prod", "1", "1", "2", "4"],
        ["spot", "0", "1", "2", "3"],
        ["gpu", "1", "0", "0", "1"],
        ["lab us-east1 · shop-prod spot", "20", "0", "0", "0"],
    ]
    assert [row[-1] for row in page.tables["pools"][2:4]] == ["3 h 12 min", "1 min"]
    assert page.tables["newest"][1] == [
        "2 Mar 11:38:56", "a-1", "spot tills · europe-west1 · shop-prod",
        "e2-standard-8", "europe-west1-c", "3 h 12 min",
    ]  # fmt: skip
    assert ("datetime", "2026-03-02T11:38:56.000Z") in page.attributes
    assert [row[1] for row in page.tables["newest"][1:]] == ["a-1", "a-2", "a-3", "b-1", "a-4"]
    assert "The last push came" in page.finding("Pushes of interruptions")
    assert "Since the start: 5 interruptions counted." in page.finding("Pushes of interruptions")


def test_the_window_of_rates_and_shares_is_named(clocked: Exporter, clock: Clock, tmp_path: Path) -> None:
    for number in range(5):
        live(clocked, f"node-{number}", ago=DAY_SECONDS)
    lose(clocked, "node-5", ago=60, age=60)
    account(clocked)
    page = read(clocked)

    assert "per 1,000 instance-hours since counting began" in page.texts["dd"]
    assert "0 of 1 since counting began" in page.texts["dd"]
    assert "Counting began less than 7 days ago" in page.texts["p"][1]
    for _ in range(8 * 24):
        clock.ahead += HOUR_SECONDS
        account(clocked)
    page = read(clocked)

    assert "per 1,000 instance-hours in the last 7 days" in page.texts["dd"]
    assert "0 of 0 in the last 7 days" in page.texts["dd"]
    assert page.tiles["Rate"] == "0"
    assert not [text for text in page.texts["caption"] + page.texts["p"] if "counting began" in text]
    assert sum("in the last 7 days" in text for text in page.texts["caption"]) == 3


def test_the_rate_is_per_instance_hour(clocked: Exporter, clock: Clock) -> None:
    for number in range(21):
        live(clocked, f"node-{number}", ago=0)
    clocked.interrupt("node-0", timestamp=stamp(0))
    account(clocked)
    clock.ahead += HOUR_SECONDS
    account(clocked)
    page = read(clocked)

    assert page.tiles["Rate"] == "50.0"
    assert page.tables["pools"][1][6:8] == ["50.0", "1 in 20 h"]
    assert page.tables["breakdowns"][1][:4] == ["e2-standard-8", "20", "50.0", "1 in 20 h"]


def account(exporter: Exporter) -> None:
    work = exporter.parts.recorder.perform(lambda store, now: store.accrue_instance_seconds(now))
    exporter.perform(work).result(120)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_are_text(clocked: Exporter, clock: Clock, hostile: str) -> None:
    lose(clocked, "node-1", ago=120, age=60)
    harmless = read(clocked).tags
    name = hostile.replace("/", "-")  # in the path of an instance's name it would be another part
    lose(
        clocked,
        name,
        ago=60,
        age=60,
        project=f"p{name[:500]}",
        zone=name,
        cluster=hostile,
        cluster_location=hostile,
        node_pool=hostile,
        machine_type=name,
    )
    clock.ahead += 60
    page = read(clocked)

    hostile, name = (text.replace("\u202e", "\\u202e") for text in (hostile, name))
    assert page.tags == harmless
    assert not [key for key, _ in page.attributes if key.startswith("on") or key == "style"]
    assert all(link.startswith(("/", "data:image/svg+xml,", DOCS_URL)) for link in page.links)
    assert page.tables["newest"][1][1:5] == [
        name,
        f"{hostile} {hostile} · {hostile} · p{name[:500]}",
        name,
        name,
    ]
    assert page.texts["bdi"].count(hostile) >= 3


def test_it_is_kept_for_some_seconds(clocked: Exporter, clock: Clock) -> None:
    assert read(clocked).finding("Pushes of creations") == "No push since the start."
    live(clocked, "node-1", ago=60)
    clock.ahead += 4.9
    assert read(clocked).finding("Pushes of creations") == "No push since the start."
    clock.ahead += 0.2
    assert read(clocked).finding("Pushes of creations") != "No push since the start."


def test_a_clock_that_is_set_back_does_not_make_it_last(clocked: Exporter, clock: Clock) -> None:
    read(clocked)
    live(clocked, "node-1", ago=60)
    clock.ahead -= DAY_SECONDS
    assert read(clocked).tiles["Live Spot instances"] == "1"


def test_without_its_ledger_it_shows_the_rest(clocked: Exporter, clock: Clock, tmp_path: Path) -> None:
    lose(clocked, "node-1", ago=60, age=60)
    live(clocked, "node-2", ago=60)
    file = tmp_path / "exporter.db"
    file.rename(tmp_path / "elsewhere.db")
    page = read(clocked)

    assert page.attention == ["Ledger"]
    assert "was deleted or renamed" in page.finding("Ledger")
    assert page.tables["pools"][1][1:5] == ["1", DASH, DASH, DASH]
    assert page.tiles["Live Spot instances"] == "1"
    assert "newest" not in page.tables
    (tmp_path / "elsewhere.db").rename(file)
    clock.ahead += 60
    assert read(clocked).attention == []


def test_an_interruption_counted_as_unknown_is_marked(tmp_path: Path, clock: Clock) -> None:
    with Exporter(tmp_path, {"attribution.grace_seconds": 1}, clock=clock) as exporter:
        assert exporter.interrupt("stranger", timestamp=stamp(1)).json()["outcome"] == "pending"
        assert read(exporter).tiles["Pending"] == "1"
        clock.ahead += 10
        work = exporter.parts.recorder.perform(lambda store, now: store.expire(now))
        exporter.perform(work).result(120)
        page = read(exporter)

    assert page.tables["newest"][1][1] == "stranger counted as unknown"
    assert page.tables["newest"][1][-1] == "unknown"
    assert page.tiles["Unknown"] == "100 %"


def test_a_problem_stands_out_in_words(clocked: Exporter) -> None:
    for _ in range(5):
        clocked.post("creation", b"{}", authorization=token(audience="https://elsewhere.example.com"))
    clocked.parts.stopping = True
    page = read(clocked)

    assert page.attention == ["Service", "Refused for authentication"]
    assert "2 things need attention" in page.texts["h2"]
    assert page.finding("Refused for authentication").startswith(
        "5 of 5 pushes since the start: 5 without a valid token. The newest of not_authenticated: the token's"
    )
    assert "Not ready: the exporter is stopping" in page.finding("Service")


def test_it_shows_the_newest_of_ten_thousand_interruptions(tmp_path: Path, clock: Clock) -> None:
    remember(tmp_path, NOW, interruptions=10_000, pools=100)
    with Exporter(tmp_path, clock=clock) as exporter:
        page = read(exporter)

    assert page.tiles["Last 7 days"] == "10,000"
    assert page.tiles["Live Spot instances"] == "100"
    assert sum(row[4] == "100" for row in page.tables["pools"]) == 100
    assert len(page.tables["newest"]) == 1 + NEWEST


class SlowLedger:
    """A ledger whose answers wait for a permission."""

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger
        self.asked = threading.Event()
        self.times = 0
        self.free = threading.Event()

    def interruptions(self, query: Query) -> Sequence[LedgerEntry]:
        self.times += 1
        self.asked.set()
        assert self.free.wait(120)
        return self._ledger.interruptions(query)

    def pools(self, now: float, limit: int) -> Sequence[PoolWeek]:
        return self._ledger.pools(now, limit)

    def week(self, now: float) -> Sequence[LabelSetWeek]:
        return self._ledger.week(now)

    def counting_since(self) -> float | None:
        return self._ledger.counting_since()

    def label_sets(self) -> Sequence[LabelSetTotals]:
        return self._ledger.label_sets()


def test_during_a_rendering_pushes_are_answered_and_other_scrapes_share_it(
    tmp_path: Path, clock: Clock
) -> None:
    slow: list[SlowLedger] = []

    def opened(url: str, *args: object, **options: object) -> OpenedStore:
        store = open_store(url, *args, **options)  # type: ignore[arg-type]  # as they come
        slow.append(SlowLedger(store.ledger))
        return replace(store, ledger=slow[0])

    with Exporter(tmp_path, clock=clock, open_store=opened) as exporter, ThreadPoolExecutor(4) as readers:
        pages = [readers.submit(exporter.client.get, f"{exporter.url}/") for _ in range(4)]
        assert slow[0].asked.wait(120)
        live(exporter, "node-1", ago=60)
        assert not any(page.done() for page in pages)
        slow[0].free.set()
        assert all(page.result(120).is_success for page in pages)
        assert slow[0].times == 1


def test_interruptions_before_counting_began_are_shown_apart(clocked: Exporter, clock: Clock) -> None:
    live(clocked, "node-1", ago=DAY_SECONDS)
    found = InstanceInterrupted(
        "interrupted operation past",
        NOW - HOUR_SECONDS,
        InstanceName("shop-prod", "europe-west1-c", "node-1"),
        made_id("shop-prod", "europe-west1-c", "node-1"),
        details=InterruptionDetails("operation"),
    )
    work = clocked.parts.recorder.perform(lambda store, now: store.recover([found], -1, now))
    clocked.perform(work).result()
    lose(clocked, "node-2", ago=10, age=DAY_SECONDS)
    clock.ahead = 60

    page = clocked.client.get(f"{clocked.metrics_url}/").text

    assert page.count("not counted") == 1
    assert "Counting began on" in page
    assert "1 earlier interruption, in the lighter bars" in page
    assert page.count('class="past"') == 1
