"""So much of the Logging query language as the log sinks' filters use.

https://cloud.google.com/logging/docs/view/logging-query-language
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from tests.support.entries import JsonObject

Filter: TypeAlias = Callable[[JsonObject], bool]

_TOKEN: Final = re.compile(r'\s*(\(|\)|log_id\("[^"]+"\)|[\w.]+(?:=~|>=|=)(?:"[^"]*"|\w+)|AND\b|OR\b)')
_SEVERITIES: Final = (
    "DEFAULT",
    "DEBUG",
    "INFO",
    "NOTICE",
    "WARNING",
    "ERROR",
    "CRITICAL",
    "ALERT",
    "EMERGENCY",
)


def compiled(text: str) -> Filter:
    """The filter as a function of an entry. Raises ValueError for what it does not understand."""
    tokens, end = [], 0
    while rest := text[end:].strip():
        found = _TOKEN.match(text, end)
        if found is None:
            raise ValueError(f"not understood: {rest}")
        tokens.append(found[1])
        end = found.end()
    result = _any(tokens)
    if tokens:
        raise ValueError(f"left over: {tokens}")
    return result


def _any(tokens: list[str]) -> Filter:
    return _joined(tokens, "OR", _all, any)


def _all(tokens: list[str]) -> Filter:
    return _joined(tokens, "AND", _one, all)


def _joined(
    tokens: list[str], word: str, part: Callable[[list[str]], Filter], how: Callable[[Iterator[bool]], bool]
) -> Filter:
    parts = [part(tokens)]
    while tokens and tokens[0] == word:
        tokens.pop(0)
        parts.append(part(tokens))
    return lambda entry: how(one(entry) for one in parts)


def _one(tokens: list[str]) -> Filter:
    first = tokens.pop(0)
    if first == "(":
        inner = _any(tokens)
        if not tokens or tokens.pop(0) != ")":
            raise ValueError("a parenthesis is not closed")
        return inner
    if first.startswith("log_id("):
        name = quote(first.split('"')[1], safe="")
        return lambda entry: entry.get("logName", "").endswith(f"/logs/{name}")
    return _comparison(first)


def _comparison(token: str) -> Filter:
    path, operator, wanted = re.split("(=~|>=|=)", token, maxsplit=1)
    fits = _OPERATORS[operator]
    wanted = wanted.strip('"')
    return lambda entry: any(fits(_text(value), wanted) for value in _at(entry, path.split(".")))


def _at(value: Any, path: list[str]) -> Iterator[Any]:  # noqa: ANN401  JSON
    """The values at a path; a list's are those of each of its elements."""
    if isinstance(value, list):
        for element in value:
            yield from _at(element, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _at(value[path[0]], path[1:])


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# Comparisons do not heed case; regular expressions do.
_OPERATORS: Final[dict[str, Callable[[str, str], bool]]] = {
    "=": lambda value, wanted: value.lower() == wanted.lower(),
    "=~": lambda value, wanted: re.search(wanted, value) is not None,
    ">=": lambda value, wanted: _SEVERITIES.index(value) >= _SEVERITIES.index(wanted),
}
