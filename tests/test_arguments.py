"""The command line: which command runs with which options, and the sentences for wrong ones."""

import re
from argparse import Namespace
from pathlib import Path

import pytest

from app.arguments import parse_arguments

SERVE = {"command": "serve", "config": None, "reset_totals": False}
CHECK = {"command": "check", "config": None}
DEMO = {"command": "demo", "once": False, "port": 8080}
CONFIG = {"config": Path("x.yaml")}


@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        pytest.param("", SERVE, id="serve-is-the-default"),
        pytest.param("serve", SERVE, id="serve"),
        pytest.param("--config x.yaml", SERVE | CONFIG, id="option-without-command"),
        pytest.param("--reset-totals", SERVE | {"reset_totals": True}, id="flag-without-command"),
        pytest.param("--config x.yaml check", CHECK | CONFIG, id="option-before"),
        pytest.param("check --config=x.yaml", CHECK | CONFIG, id="option-after"),
        pytest.param(
            "--reset-totals serve --config x.yaml", SERVE | CONFIG | {"reset_totals": True}, id="both"
        ),
        pytest.param("--config check", SERVE | {"config": Path("check")}, id="file-named-like-a-command"),
        pytest.param("demo", DEMO, id="demo"),
        pytest.param("demo --once --port 0", DEMO | {"once": True, "port": 0}, id="demo-once"),
        pytest.param("--port 65535 demo", DEMO | {"port": 65535}, id="largest-port"),
    ],
)
def test_a_command_has_its_own_options_before_or_after_it(words: str, parsed: dict[str, object]) -> None:
    assert parse_arguments(words.split()) == Namespace(**parsed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(
            "chekc",
            "unknown command 'chekc': the commands are serve, check and demo; did you mean check?",
            id="close-to-a-command",
        ),
        pytest.param(
            "--config x.yaml Demo",
            "unknown command 'Demo': the commands are serve, check and demo; did you mean demo?",
            id="close-by-case",
        ),
        pytest.param("fry", "unknown command 'fry': the commands are serve, check and demo", id="not-close"),
        pytest.param(
            "\x1b[2J", "unknown command '\\x1b[2J': the commands are serve, check and demo", id="escaped"
        ),
        pytest.param("check --reset-totals", "check does not take --reset-totals", id="option-of-another"),
        pytest.param("--once", "serve does not take --once", id="option-of-another-than-the-default"),
        pytest.param("demo --config x.yaml", "demo does not take --config", id="demo-has-no-configuration"),
        pytest.param(
            "--config=", "argument --config: should be the path of a file, not empty", id="empty-path"
        ),
        pytest.param("check twice", "unrecognized arguments: twice", id="two-commands"),
        pytest.param("--no-such-option", "unrecognized arguments: --no-such-option", id="unknown-option"),
        *(
            pytest.param(
                f"demo --port {port}",
                f"argument --port: {port!r} is not a port: give a number from 0 to 65535",
                id=f"port-{port[:6]}",
            )
            for port in ("abc", "65536", "-1", "80.5", "\N{SUPERSCRIPT TWO}", "9" * 5000)
        ),
    ],
)
def test_a_wrong_command_line_is_answered_with_a_sentence(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(words.split())

    usage, error = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert usage.startswith("usage: spot-interruption-exporter [serve | check | demo]")
    assert error == f"spot-interruption-exporter: error: {sentence}"


@pytest.mark.parametrize("words", ["--help", "check -h"])
def test_the_help_has_commands_options_environment_and_exit_codes(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(words.split())

    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert printed.isascii()
    assert re.findall(r"^  (\S+(?: [A-Z]+|, \S+)?) {2,}\S", printed, re.MULTILINE) == [
        *("serve", "check", "demo"),
        *("-h, --help", "--version", "--config PATH", "--reset-totals", "--once", "--port PORT"),
        *("CONFIG_PATH", "SIE_..."),
        *("0", "1", "2", "130, 143"),
    ]
    assert "run the exporter (the default)" in printed
