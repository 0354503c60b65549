"""The status page in a real browser: it fits every width, can be read, and runs nothing."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, Page

from app.domain.ledger import DAY_SECONDS, HOUR_SECONDS
from tests.simulation.fleet import POOLS
from tests.support.browser import chromium
from tests.support.clock import Clock
from tests.support.exporter import Exporter
from tests.support.ledgers import remember

HOSTILE: Final = "'\"><img src=x onerror=\"document.title='run';alert(1)\"><script>alert(1)<script>"
LONG: Final = "x" * 512
MIDNIGHT: Final = 1_772_409_600.0
WIDTHS: Final = (320, 360, 390, 440, 441, 720, 721, 730, 800, 900, 901, 1000, 1050, 1051, 1280, 2000)
"""Phones to large screens, and both sides of each width at which the layout changes."""
_OVERFLOW: Final = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
_OUTSIDE: Final = """[...document.querySelectorAll('main *')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 1 && (box.right > window.innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 80))"""
_OVERPRINTED: Final = """selector => {
    const isShown = e => !e || getComputedStyle(e).clipPath === 'none' && isShown(e.parentElement);
    const boxes = [...document.querySelectorAll(selector)].filter(isShown).map(e => {
        const range = document.createRange();
        range.selectNodeContents(e);
        return [range.getBoundingClientRect(), e.textContent.trim()];
    }).filter(([box, text]) => box.width > 1 && text);
    return boxes.flatMap(([one, text], n) => boxes.slice(n + 1).filter(([other]) =>
        one.left < other.right - 0.5 && other.left < one.right - 0.5 &&
        one.top < other.bottom - 0.5 && other.top < one.bottom - 0.5
    ).map(([_, other]) => [text, other]));
}"""
"""Pairs of texts that are printed over each other: the boxes of the texts, not of their cells."""
_BROKEN: Final = """() => {
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode())
        for (const word of node.data.matchAll(/[A-Za-z0-9,.]+/g)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1)
                found.push(word[0]);
        }
    return found;
}"""
"""Words that are on two lines. A name may wrap behind a hyphen, so its parts are words."""
_TICKS_OUTSIDE: Final = """() => {
    const plot = document.querySelector('svg.large').getBoundingClientRect();
    return [...document.querySelectorAll('svg.large text')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width && (box.left < plot.left || box.right > plot.right);
    }).map(e => e.textContent);
}"""
_BRIGHTNESS: Final = """property => getComputedStyle(document.body)[property]
    .match(/[0-9]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[int, Exporter]]:
    """Exporters by their number of interruptions. The newest interruption has a hostile name."""
    with ExitStack() as running:
        started = {}
        for number in (0, 1, 10_000):
            directory = tmp_path_factory.mktemp("exporter")
            if number > 1:
                remember(directory, time.time(), interruptions=number - 1, pools=100)
            started[number] = running.enter_context(Exporter(directory, two_listeners=True))
            if number:
                interrupt(started[number], HOSTILE, LONG)
        yield started


def interrupt(exporter: Exporter, name: str, cluster: str) -> None:
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    exporter.create(name, cluster=cluster, node_pool=name, machine_type=name, timestamp=now)
    assert exporter.interrupt(name, timestamp=now).json()["outcome"] == "counted"


class Visit:
    """A page, with the complaints and the requests of the browser."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(f"{url}/", wait_until="networkidle")


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock(MIDNIGHT + HOUR_SECONDS)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[Exporter]:
    """An exporter of the simulated fleet's node pools, and of names as long as GKE's may be."""
    pools = [pool for pool in POOLS if pool.spot]
    pools += [
        replace(
            pools[0], cluster="payments-production-cluster-of-the-shop", name="spot-highmem-compute-pool"
        ),
        replace(pools[0], location="northamerica-northeast1", machine_type="c3d-highmem-360-lssd"),
    ]
    zones = ("northamerica-northeast1-a", "europe-west1-b")
    with Exporter(tmp_path_factory.mktemp("fleet"), two_listeners=True, clock=clock) as exporter:
        exporter.post("creation", b"{}")
        for number, pool in enumerate(pools * 5):
            name, zone = f"gke-{pool.cluster}-{pool.name}-{number:08x}-x8kd"[-63:], zones[number % 2]
            now = f"{datetime.fromtimestamp(clock() - number, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            exporter.create(
                name,
                project=pool.project,
                cluster=pool.cluster,
                cluster_location=pool.location,
                node_pool=pool.name,
                machine_type=pool.machine_type,
                zone=zone,
                timestamp=now,
            )
            answer = exporter.interrupt(name, project=pool.project, zone=zone, timestamp=now)
            assert answer.json()["outcome"] == "counted"
        yield exporter


@pytest.fixture(scope="module")
def fleet_page(browser: Browser, fleet: Exporter) -> Iterator[Page]:
    """The page of the fleet, for tests that only resize it."""
    with browser.new_context() as context:
        yield Visit(context.new_page(), fleet.metrics_url).page


@pytest.mark.parametrize("width", WIDTHS)
def test_it_can_be_read_at_every_width(fleet_page: Page, width: int) -> None:
    fleet_page.set_viewport_size({"width": width, "height": 900})
    height = fleet_page.evaluate("document.scrollingElement.scrollHeight")

    assert fleet_page.evaluate(_OVERFLOW) <= 0
    assert fleet_page.evaluate(_OUTSIDE) == []
    assert fleet_page.evaluate(_OVERPRINTED, "th, td, caption, h1, h2, dt, dd, nav a") == []
    assert fleet_page.evaluate(_BROKEN) == []
    assert height <= (6500 if width <= 720 else 4500 if width <= 900 else 3500)


@pytest.mark.parametrize("hours", [6.3, 11.5, 23.9])
def test_the_days_stand_inside_the_chart_at_every_time_of_day(
    browser: Browser, fleet: Exporter, clock: Clock, hours: float
) -> None:
    with browser.new_context() as context:
        clock.at = MIDNIGHT + DAY_SECONDS + hours * HOUR_SECONDS
        page = Visit(context.new_page(), fleet.metrics_url).page
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(_TICKS_OUTSIDE) == [], width
            assert page.evaluate(_OVERPRINTED, "svg.large text") == [], width


def test_the_newest_are_first_and_lead_to_more(browser: Browser, fleet: Exporter) -> None:
    with browser.new_context() as context:
        page = Visit(context.new_page(), fleet.metrics_url).page
        headings = page.locator("main h2").all_inner_texts()
        newest = page.get_by_role("table", name="The newest 10")

        assert newest.get_by_role("row").count() == 1 + 10
        places = [
            headings.index(name) for name in ("Newest interruptions", "Clusters and node pools", "By zone")
        ]
        assert places == sorted(places)
        page.get_by_role("link", name="More interruptions").click()
        assert page.url == f"{fleet.metrics_url}/interruptions?limit=100"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("interruptions", [0, 1, 10_000])
def test_it_fits_every_width_and_loads_and_runs_nothing(
    browser: Browser, exporters: Mapping[int, Exporter], interruptions: int, scheme: Literal["light", "dark"]
) -> None:
    url = exporters[interruptions].metrics_url
    with browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}) as context:
        visit = Visit(context.new_page(), url)
        page = visit.page
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(_OVERFLOW) <= 0, width
            assert page.evaluate(_OUTSIDE) == [], width
        background, text = (page.evaluate(_BRIGHTNESS, name) for name in ("backgroundColor", "color"))
        headings = page.locator("h2").all_inner_texts()

        assert visit.requests == [f"{url}/"]
        assert visit.complaints == []
        assert page.title() == "Spot interruptions"
        assert (background > 0.9, text < 0.2) == ((scheme == "light"),) * 2
        assert "Pipeline" in headings
        assert ("Newest interruptions" in headings) is (interruptions > 0)
        assert page.get_by_role("heading", name="Pipeline").is_visible()


def test_a_hostile_name_is_read_as_it_is(browser: Browser, exporters: Mapping[int, Exporter]) -> None:
    with browser.new_context(viewport={"width": 390, "height": 900}) as context:
        page = Visit(context.new_page(), exporters[1].metrics_url).page
        shown = page.get_by_role("table", name="All recorded interruptions").locator("bdi")

        assert shown.all_inner_texts()[:3] == [HOSTILE, HOSTILE, LONG]
        assert shown.first.is_visible()
        assert page.locator("img, script").count() == 0


def test_it_can_be_read_by_a_screen_reader(browser: Browser, exporters: Mapping[int, Exporter]) -> None:
    with browser.new_context() as context:
        page = Visit(context.new_page(), exporters[10_000].metrics_url).page
        tables = page.get_by_role("table")

        assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
        assert (
            page.get_by_role("navigation", name="Endpoints and documentation").get_by_role("link").count()
            == 6
        )
        assert tables.count() == page.locator("table > caption").count() == 5
        assert page.get_by_role("img", name="Interruptions of the last 7 days").count() > 100
        assert page.get_by_role("rowheader", name="pool-042", exact=True).is_visible()
        assert page.get_by_role("cell", name="100", exact=True).count() >= 100


def test_the_focus_is_visible(browser: Browser, exporters: Mapping[int, Exporter]) -> None:
    with browser.new_context() as context:
        page = Visit(context.new_page(), exporters[0].metrics_url).page
        page.keyboard.press("Tab")

        assert page.evaluate("document.activeElement.getAttribute('href')") == "/metrics"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
