"""Choose between representations by the `Accept` and `Accept-Encoding` headers of a request.

https://www.rfc-editor.org/rfc/rfc9110#section-12.5
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

_MOST: Final = 50
"""No client sends a list of more elements, or an element of more parameters. The rest is ignored."""
_WEIGHT: Final = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")


class MediaType(NamedTuple):
    """A media type, in lower case, and the version of its format."""

    name: str
    version: str


class _Element(NamedTuple):
    """An element of a header's list, in lower case."""

    value: str
    parameters: Mapping[str, str]
    weight: float


def preferred(accept: str, offers: Sequence[MediaType]) -> MediaType:
    """Return the offer that an `Accept` header prefers, or the first offer if the header accepts none.

    Of offers with equal weight it is the offer that the header names more exactly, then the offer that the
    header names first, then the first offer. Only the `version` of a media range has to fit: its other
    parameters are ignored.
    """
    ranges = list(_elements(accept))
    return max(offers, key=lambda offer: _rank(offer, ranges))


def accepts_gzip(accept_encoding: str) -> bool:
    """Return True if an `Accept-Encoding` header accepts gzip and does not prefer the plain form."""
    weights = {element.value: element.weight for element in _elements(accept_encoding)}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _rank(offer: MediaType, ranges: Sequence[_Element]) -> tuple[float, int, int]:
    """Return the weight, exactness and place (earlier is higher) of the most exact range that fits."""
    fitting = [
        (exactness, media_range.weight, -place)
        for place, media_range in enumerate(ranges)
        if (exactness := _exactness(media_range, offer))
    ]
    exactness, weight, place = max(fitting, default=(0, 0.0, 0))
    return (weight, exactness, place) if weight else (0.0, 0, 0)


def _exactness(media_range: _Element, offer: MediaType) -> int:
    """Return how exactly a media range names the offer, from 1 to 6, or 0 if it does not fit."""
    version = media_range.parameters.get("version")
    names = ("*/*", f"{offer.name.partition('/')[0]}/*", offer.name)
    if media_range.value not in names or version not in (None, offer.version):
        return 0
    return 2 * names.index(media_range.value) + (1 if version is None else 2)


def _elements(header: str) -> Iterator[_Element]:
    """Yield the elements of a header's list; an element with a malformed weight is skipped."""
    for element in header.lower().split(",", _MOST)[:_MOST]:
        value, *parts = (part.strip() for part in element.split(";", _MOST)[:_MOST])
        parameters = {
            name.strip(): text.strip().strip('"') for name, _, text in (part.partition("=") for part in parts)
        }
        weight = parameters.get("q", "1")
        if _WEIGHT.fullmatch(weight):
            yield _Element(value, parameters, float(weight))
