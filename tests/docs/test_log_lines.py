"""The runbook's table of log lines has each WARNING and each ERROR of the code."""

import ast
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import pytest

from tests.support.docs import ROOT, rows

_SEVERITIES: Final = {"warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
_PASSED_ON: Final = ("cli.py",)
"""The modules that log messages which another module has made: here the warnings about the configuration."""


def logged(source: str) -> Iterator[tuple[str, str]]:
    """Yield the message and the severity of each WARNING and ERROR of a module.

    A message that another module has made is empty.
    """
    tree = ast.parse(source)
    named = {
        target.id: _texts(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        # The method is called, or it is an argument that its own argument follows.
        for method, message in pairwise((call.func, *call.args)):
            severity = _severity(method)
            if severity:
                texts = named.get(message.id, ()) if isinstance(message, ast.Name) else _texts(message)
                for text in texts or ("",):
                    yield text.removesuffix(": %s"), severity


def _severity(method: ast.expr) -> str:
    """Return the severity with which a method of the logger logs; empty for INFO and any other method."""
    if not isinstance(method, ast.Attribute) or ast.unparse(method.value) != "_log":
        return ""
    return _SEVERITIES.get(method.attr, "")


def _texts(node: ast.expr) -> Sequence[str]:
    """Return the text of an expression, or the two between which it chooses."""
    nodes = (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,)
    return [part.value for part in nodes if isinstance(part, ast.Constant) and isinstance(part.value, str)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        pytest.param('_log.warning("a b", extra={"a": b})', [("a b", "WARNING")], id="warning"),
        pytest.param('_log.exception("a" "b")', [("ab", "ERROR")], id="exception"),
        pytest.param('_log.warning("a: %s", b)', [("a", "WARNING")], id="with-a-detail"),
        pytest.param('c = "a" if b else "d"\n_log.error(c)', [("a", "ERROR"), ("d", "ERROR")], id="chosen"),
        pytest.param('text = "a"\nhandle(1, _log.warning, text)', [("a", "WARNING")], id="handed-over"),
        pytest.param("for text in texts:\n    _log.warning(text)", [("", "WARNING")], id="passed-on"),
        pytest.param('_log.info("a")', [], id="info"),
    ],
)
def test_the_messages_of_a_module_are_found(source: str, found: Sequence[tuple[str, str]]) -> None:
    assert list(logged(source)) == found


def test_every_warning_and_error_has_its_row_and_its_severity() -> None:
    messages = {
        message: severity
        for path in sorted((ROOT / "app").rglob("*.py"))
        for message, severity in logged(path.read_text())
        if message or path.name not in _PASSED_ON
    }
    listed = {line.strip("`"): severity for line, severity, _ in rows("log lines")}
    lines_of = {message: [line for line in listed if _is_the_line_of(line, message)] for message in messages}

    assert {message: lines for message, lines in lines_of.items() if len(lines) != 1} == {}
    assert {lines[0]: messages[message] for message, lines in lines_of.items()} == listed


def _is_the_line_of(line: str, message: str) -> bool:
    """Return whether the table's line is the message, or its beginning followed by `…`."""
    beginning = line.removesuffix("…").rstrip()
    return message == line or (beginning != line and message.startswith(beginning))
