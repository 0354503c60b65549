"""The README's pictures of the status page with the simulated week.

`python -m tests.simulation.pictures` writes them. It needs Chromium, Prometheus, pngquant and the font Inter.
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
    """A picture of the top of the page; width and height are pixels of the browser."""

    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int


PICTURES: Final = (
    Picture("status-light", "light", 1280, 2170),
    Picture("status-dark", "dark", 1280, 2170),
    Picture("status-phone", "light", 390, 1198),
)


def take(browser: Browser, url: str, picture: Picture) -> None:
    """Write one picture."""
    path = _IMAGES / f"{picture.name}.png"
    with browser.new_context(
        color_scheme=picture.scheme, viewport={"width": picture.width, "height": picture.height}
    ) as context:
        page = context.new_page()
        page.goto(url)
        page.screenshot(path=path)
    subprocess.run(["pngquant", "--force", "--output", path, "64", path], check=True)


def main() -> None:
    """Simulate the week and take all pictures."""
    _IMAGES.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as directory, Week(Path(directory)) as week, chromium() as browser:
        for picture in PICTURES:
            take(browser, f"{week.exporter.metrics_url}/", picture)


if __name__ == "__main__":
    main()
