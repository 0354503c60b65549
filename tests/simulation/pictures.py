"""Screenshots of the status page for the documentation: the simulated week, and the demo.

`python -m tests.simulation.pictures` writes them; it needs Chromium, Prometheus, pngquant and the font Inter.
"""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, NamedTuple

from playwright.sync_api import Browser

from tests.simulation.week import Week
from tests.support.browser import chromium
from tests.support.process import LOOPBACK, Process, answers, free_port
from tests.support.program import COMMAND

_IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"


class Picture(NamedTuple):
    """A screenshot of the top of the page; width and height in CSS pixels."""

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int


OF_THE_WEEK: Final = (
    Picture("status-light", "light", 1280, 2240),
    Picture("status-dark", "dark", 1280, 2240),
    Picture("status-phone", "light", 390, 1198),
)
OF_THE_DEMO: Final = Picture("demo", "light", 1280, 888)


def write_picture(browser: Browser, url: str, picture: Picture) -> None:
    """Write a screenshot."""
    path = _IMAGES / f"{picture.name}.png"
    with browser.new_context(
        color_scheme=picture.scheme, viewport={"width": picture.width, "height": picture.height}
    ) as context:
        page = context.new_page()
        page.goto(url)
        page.screenshot(path=path)
    subprocess.run(["pngquant", "--force", "--output", path, "64", path], check=True)


def write_pictures_of_the_week(browser: Browser) -> None:
    """Simulate the week, and write its screenshots."""
    with TemporaryDirectory() as directory, Week(Path(directory)) as week:
        for picture in OF_THE_WEEK:
            write_picture(browser, f"{week.exporter.metrics_url}/", picture)


def write_picture_of_the_demo(browser: Browser) -> None:
    """Run the demo, and write its screenshot."""
    url = f"http://{LOOPBACK}:{free_port()}"
    with TemporaryDirectory() as directory:
        output = Path(directory) / "demo.log"

        def is_serving() -> bool:
            return "The counts are right." in output.read_text() and answers(f"{url}/healthz")()

        demo = [*COMMAND, "demo", "--port", url.rpartition(":")[2]]
        with Process(demo, output=output, ready=is_serving):
            write_picture(browser, f"{url}/", OF_THE_DEMO)


def main() -> None:
    """Write all screenshots."""
    _IMAGES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        write_pictures_of_the_week(browser)
        write_picture_of_the_demo(browser)


if __name__ == "__main__":
    main()
