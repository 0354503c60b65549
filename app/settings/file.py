"""The YAML configuration file, read into a mapping in which every key appears once."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from app.errors import ConfigurationError

_MERGE: Final = "tag:yaml.org,2002:merge"


def read_file(path: Path) -> dict[str, Any]:
    """Return the content of a configuration file; an empty file is an empty mapping.

    Raises ConfigurationError if the file cannot be read, is not YAML, is not a mapping, or has a key twice.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(
            [f"{path}: cannot be read: {exc.strerror}; correct --config or CONFIG_PATH"]
        ) from exc
    try:
        tree, duplicates = _load(content)
    # PyYAML raises a LookupError or an AttributeError for a value that does not fit its tag: `!!bool x`.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as exc:
        # The library's own message quotes the file, which may hold a password.
        mark = getattr(exc, "problem_mark", None)
        where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError([f"{path}: is not YAML{where}"]) from None
    if duplicates:
        raise ConfigurationError([f"{path}: {line}" for line in duplicates])
    if not isinstance(tree, dict | None):
        raise ConfigurationError([f"{path}: should be a mapping of keys"])
    return {str(key): value for key, value in (tree or {}).items()}


def _load(content: bytes) -> tuple[object, list[str]]:
    """Return the file's value, and a line per key that appears more than once in its mapping.

    PyYAML keeps the last of two equal keys and says nothing, although YAML forbids them:
    https://yaml.org/spec/1.2.2/#3213-node-comparison
    """
    loader = yaml.SafeLoader(content)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, []
        # Constructing resolves merge keys into the mappings, so the duplicates are looked for before.
        duplicates = list(_duplicates(root))
        return loader.construct_document(root), duplicates
    finally:
        loader.dispose()


def _duplicates(root: yaml.Node) -> Iterator[str]:
    seen: set[int] = set()  # an alias leads to a node again, possibly to one that contains it
    pending = [("", root)]
    while pending:
        prefix, node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += [(f"{prefix}{index}.", item) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, list[int]] = defaultdict(list)
            for key, value in node.value:
                pending.append((f"{prefix}{key.value}.", value))
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    lines[key.value].append(key.start_mark.line + 1)
            for name, at in lines.items():
                if len(at) > 1:
                    yield f"{prefix}{name}: key appears {_times(at)}; keep one"


def _times(lines: list[int]) -> str:
    times = "twice" if len(lines) == 2 else f"{len(lines)} times"  # noqa: PLR2004
    return f"{times} (lines {', '.join(map(str, lines[:-1]))} and {lines[-1]})"
