"""The README's commands, as they stand there, give what stands there."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import LOOPBACK, Process, answers, free_port
from tests.support.program import COMMAND
from tests.support.requirement import require

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    require("curl", shutil.which("curl"))
    free = free_port()
    environment = {
        "SIE_PUBSUB__AUTHENTICATION": "none",
        "SIE_SERVER__HOST": LOOPBACK,
        "SIE_SERVER__PORT": str(free),
        "SIE_STORE__URL": f"sqlite:///{tmp_path}/store.db",
    }
    ready = answers(f"http://{LOOPBACK}:{free}/healthz")
    with Process(COMMAND, output=tmp_path / "exporter.log", ready=ready, env=environment):
        yield free


def test_the_commands_by_hand_give_the_answers_shown(port: int) -> None:
    shown = re.findall(r"<!-- by hand -->\n```sh\n(.*?)```\n\n```\w*\n(.*?)```", README, re.DOTALL)

    assert len(shown) >= 6
    for command, answer in shown:
        printed = subprocess.run(
            ["bash", "-c", command.replace("127.0.0.1:8080", f"{LOOPBACK}:{port}")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        assert _dateless(printed) == _dateless(answer), command


def _dateless(text: str) -> str:
    """The text without the times at which it was made: the samples have none of their own."""
    return re.sub(r'"(interrupted_at|recorded_at|age_seconds)":[^,]*', r'"\1":0', text.strip())
