"""A start loads no library before it is needed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("library", "needed_by"),
    [
        ("jinja2", "app.web.status.page"),
        ("httpx", "app.gcp.client"),
        ("cryptography", "app.gcp.certificates"),
        ("google.auth", "app.gcp.oidc"),
        ("redis", "app.store.redis.backend"),
        ("google.cloud.pubsub_v1", "app.pull"),
    ],
)
def test_the_server_does_not_load_what_only_some_requests_or_modes_need(library: str, needed_by: str) -> None:
    program = f"import app.serving, sys; sys.exit({library!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0, needed_by
