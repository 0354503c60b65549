"""The status page in a real browser: what it shows, that it fits, and that nothing of it runs."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import chromium
from tests.support.exporter import Exporter
from tests.support.ledgers import remember

HOSTILE: Final = "'\"><img src=x onerror=\"document.title='run';alert(1)\"><script>alert(1)<script>"
LONG: Final = "x" * 512
WIDTHS: Final = (1280, 390, 360)
_OVERFLOW: Final = "document.scrollingElement.scrollWidth - window.innerWidth"
_OUTSIDE: Final = """[...document.querySelectorAll('main *')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 1 && (box.right > window.innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 80))"""
_BRIGHTNESS: Final = """property => getComputedStyle(document.body)[property]
    .match(/[0-9]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[int, Exporter]]:
    """By how many interruptions they know; where there are any, the newest is a hostile name's."""
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
    """A page, and everything that a browser complains of or asks for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(f"{url}/", wait_until="networkidle")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("interruptions", [0, 1, 10_000])
def test_it_fits_every_width_and_loads_and_runs_nothing(
    browser: Browser, exporters: Mapping[int, Exporter], interruptions: int, scheme: Literal["light", "dark"]
) -> None:
    url = exporters[interruptions].metrics_url
    with browser.new_context(color_scheme=scheme, viewport={"width": WIDTHS[0], "height": 900}) as context:
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
        shown = page.get_by_role("table", name="All that is recorded").locator("bdi")

        assert shown.all_inner_texts()[:3] == [HOSTILE, HOSTILE, LONG]
        assert shown.first.is_visible()
        assert page.locator("img, script").count() == 0


def test_it_is_told_to_those_who_do_not_see_it(browser: Browser, exporters: Mapping[int, Exporter]) -> None:
    with browser.new_context() as context:
        page = Visit(context.new_page(), exporters[10_000].metrics_url).page
        tables = page.get_by_role("table")

        assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
        assert page.get_by_role("navigation", name="Endpoints").get_by_role("link").count() == 4
        assert tables.count() == page.locator("table > caption").count() == 5
        assert page.get_by_role("img", name="Interruptions of the last 7 days").count() > 100
        assert page.get_by_role("rowheader", name="pool-042", exact=True).is_visible()
        assert page.get_by_role("cell", name="100", exact=True).count() >= 100


def test_the_focus_is_seen(browser: Browser, exporters: Mapping[int, Exporter]) -> None:
    with browser.new_context() as context:
        page = Visit(context.new_page(), exporters[0].metrics_url).page
        page.keyboard.press("Tab")

        assert page.evaluate("document.activeElement.getAttribute('href')") == "/metrics"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
