"""The commands of the pages do what stands there."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.docs.checkout import copied, shell
from tests.support.docs import DOCS, PAGES, README, ROOT, Block, blocks, rows
from tests.support.process import LOOPBACK, Process, answers, free_port
from tests.support.program import COMMAND
from tests.support.requirement import require

TRY_IT: Final = DOCS / "try-it.md"
EXPORTER: Final = ".venv/bin/spot-interruption-exporter"


def marked(*marks: str, pages: tuple[Path, ...] = PAGES) -> list[Block]:
    return [block for page in pages for block in blocks(page, "sh") if block.mark in marks]


def name_of(block: Block) -> str:
    words = re.sub(r"\W+", "-", block.code)[:40]
    return f"{block.page.relative_to(ROOT)}-{words}"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    require("curl", shutil.which("curl"))
    [start] = marked("start", pages=(TRY_IT,))
    *variables, program = start.code.split()
    assert program == EXPORTER
    free = free_port()
    environment = dict(variable.split("=", 1) for variable in variables) | {
        "SIE_SERVER__PORT": str(free),
        "SIE_STORE__URL": f"sqlite:///{tmp_path}/store.db",
    }
    ready = answers(f"http://{LOOPBACK}:{free}/healthz")
    with Process(COMMAND, output=tmp_path / "exporter.log", ready=ready, env=environment):
        yield free


def test_the_commands_by_hand_give_the_answers_shown(port: int) -> None:
    shown = marked("by hand", pages=(TRY_IT, DOCS / "http-api.md"))

    assert len(shown) >= 8
    assert marked("by hand") == shown or len(marked("by hand")) == len(shown)
    for block in shown:
        printed = shell(block.code.replace("127.0.0.1:8080", f"{LOOPBACK}:{port}"), ROOT)
        assert _dateless(printed.stdout) == _dateless(block.output), block.code


def _dateless(text: str) -> str:
    """Return the text without the times at which it was made: the samples have none of their own."""
    return re.sub(r'"(interrupted_at|recorded_at|age_seconds)":[^,]*', r'"\1":0', text.strip())


@pytest.mark.parametrize("block", marked("run", "dashboard"), ids=name_of)
def test_a_command_runs_in_a_checkout(block: Block, tmp_path: Path) -> None:
    if "kubectl" in block.code:
        require("kubectl", shutil.which("kubectl"))

    done = shell(block.code, copied(tmp_path))

    assert done.returncode == 0, done.stderr


def test_the_demo_command_ends_with_the_demo() -> None:
    # tests/test_demo.py runs the demo.
    [block] = marked("demo", pages=(README,))

    assert block.code.rstrip().endswith(f"{EXPORTER} demo")


def test_ci_runs_the_test_command() -> None:
    [block] = marked("test", pages=(README,))
    extracted = shell("sed -n '/<!-- test -->/,/```$/p' README.md | grep -v -e '^<!--' -e '^```'", ROOT)

    assert extracted.stdout == block.code
    assert "sed -n '/<!-- test -->/,/```$/p' README.md" in (ROOT / ".ci/run").read_text()


def test_ci_runs_the_commands_of_compose() -> None:
    workflow = (ROOT / ".github/workflows/ci.yaml").read_text()
    lines = {line for block in marked("compose") for line in block.code.splitlines()}

    assert len(lines) >= 5
    assert [line for line in lines if line not in workflow] == []


def wrong_words(code: str) -> list[str]:
    """Return the programs, files, modules of the tests, and their options that do not exist."""
    wrong = []
    for command in re.split(r"&&|(?<!\\)\n", code):
        words = shlex.split(command)
        wrong += [
            word
            for word in words
            if (word.startswith(".venv/") and not (Path(sys.prefix) / word.removeprefix(".venv/")).exists())
            or (word.startswith("tests/") and not (ROOT / word).exists())
        ]
        modules = [word for word in words if word.startswith("tests.")]
        for module in modules:
            source = _source(module)
            wrong += [] if source else [module]
            wrong += [word for word in words if word.startswith("--") and f'"{word}"' not in source]
    return wrong


def _source(module: str) -> str:
    try:
        spec = find_spec(module)
        if spec is not None and spec.submodule_search_locations:
            spec = find_spec(f"{module}.__main__")
    except ModuleNotFoundError:
        return ""
    return "" if spec is None or spec.origin is None else Path(spec.origin).read_text()


@pytest.mark.parametrize("block", marked("takes minutes"), ids=name_of)
def test_a_long_command_names_programs_and_options_that_exist(block: Block) -> None:
    assert wrong_words(block.code) == []


def test_the_commands_of_the_proof_exist() -> None:
    [results] = zip(*[row[2:] for row in rows("proof")], strict=True)
    commands = [
        command for result in results for command in re.findall(r"`((?:python|pytest) [^`]+)`", result)
    ]

    assert len(commands) == len(rows("proof"))
    assert [(command, wrong_words(command)) for command in commands if wrong_words(command)] == []
