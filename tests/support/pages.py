"""The status page as text, and the elements that it must not contain."""

from collections import defaultdict
from html.parser import HTMLParser
from typing import Final, TypeAlias

Rows: TypeAlias = list[list[str]]

_VOID: Final = {"meta", "link", "br", "hr", "img", "input"}


class StatusPage(HTMLParser):
    """The tables by class, the texts by element, every tag and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.tables: defaultdict[str, Rows] = defaultdict(list)
        self.texts: defaultdict[str, list[str]] = defaultdict(list)
        """The texts of each `h2`, `dt`, `dd`, `li`, `style`, `title`, `time` …, in order."""
        self._table = ""
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "table":
            self._table = dict(attrs).get("class") or ""
        if tag == "tr":
            self.tables[self._table].append([])
        if tag not in _VOID:
            self._open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        # The title of a drawing belongs to nothing around it.
        inner = self._open[-1:] if self._open and self._open[-1][0] == "title" else self._open
        for _, text in inner:
            text.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, text = self._open.pop()
        assert opened == tag, f"{opened} is closed by {tag}"
        joined = " ".join("".join(text).split())
        self.texts[tag].append(joined)
        if tag in {"td", "th"}:
            self.tables[self._table][-1].append(joined)

    @property
    def tiles(self) -> dict[str, str]:
        """The numbers in the tiles."""
        return dict(zip(self.texts["dt"], self.texts["dd"][::2], strict=True))

    @property
    def attention(self) -> list[str]:
        """The names of the checks that stand out."""
        return [name for name, _, state in self.tables["checks"][1:] if state == "Attention"]

    def finding(self, check: str) -> str:
        """Return the finding of a check, from the banner if the check needs attention."""
        finding = next(finding for name, finding, _ in self.tables["checks"] if name == check)
        if check not in self.attention:
            return finding
        assert finding == "See above"
        (finding,) = (text for text in self.texts["li"] if text.startswith(f"{check}: "))
        return finding.removeprefix(f"{check}: ")

    @property
    def links(self) -> list[str]:
        """The targets of its links, and the addresses that it would load."""
        return [
            value for name, value in self.attributes if name in {"href", "src", "srcset", "action", "data"}
        ]
