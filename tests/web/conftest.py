"""Both ways of a push: that of the server's protocol, and that through uvicorn and ASGI."""

import pytest

from tests.support.exporter import Exporter


@pytest.fixture(params=[pytest.param(True, id="direct"), pytest.param(False, id="asgi")])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test once for each way."""
    monkeypatch.setattr(Exporter, "direct_pushes", request.param)
