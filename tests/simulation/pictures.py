"""Screenshots of the status page for the README, with the data of the simulated week.

`python -m tests.simulation.pictures` writes them; it needs Chromium, Prometheus, pngquant and the font Inter.
"""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, NamedTuple

from playwright.sync_api import Browser

from tests.simulation.week import Week
from tests.support.browser import chromium

_IMAGES: Final = Path(__file__).parents[2] / ".github" / "images"


class Picture(NamedTuple):
    """A screenshot of the top of the page; width and height in CSS pixels."""

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int


PICTURES: Final = (
    Picture("status-light", "light", 1280, 2170),
    Picture("status-dark", "dark", 1280, 2170),
    Picture("status-phone", "light", 390, 1198),
)


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


def main() -> None:
    """Simulate the week, and write all screenshots."""
    _IMAGES.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as directory, Week(Path(directory)) as week, chromium() as browser:
        for picture in PICTURES:
            write_picture(browser, f"{week.exporter.metrics_url}/", picture)


if __name__ == "__main__":
    main()
