"""The kinds of values that settings accept, each with the message for a value that can never work."""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

_YEAR_SECONDS: Final = 31_536_000
_FLEET_LABELS: Final = ("project", "cluster_location", "node_pool", "zone", "machine_type")
_OTHER_LABELS: Final = (*_FLEET_LABELS, "endpoint", "outcome", "reason", "by", "version", "python_version")
_TARGET_LABELS: Final = ("job", "instance", "le", "namespace", "pod")
_PATHS: Final = ("/healthz", "/readyz", "/interruptions", "/openapi.json")
_ADDRESS: Final = r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?"
_HOST: Final = rf"{_ADDRESS}([/?]\S*)?"


def _no_boolean(value: object) -> object:
    # YAML 1.1 reads `yes` and `on` as booleans, which pydantic takes for 1.
    if isinstance(value, bool):
        raise ValueError("should be a number")  # noqa: TRY004  # pydantic collects no TypeErrors
    return value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _number_as_text(value: object) -> object:
    # YAML reads an unquoted project number as an integer; it gets the same message as a quoted number.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _unpack_json(value: object) -> object:
    if not isinstance(value, str) or not value.strip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("should be a JSON list") from None


def _one_or_many(value: object) -> object:
    value = _unpack_json(value)
    return tuple(filter(None, [value.strip()])) if isinstance(value, str) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _check(is_right: Callable[[Any], object], message: str) -> AfterValidator:
    def check(value: Any) -> Any:  # noqa: ANN401 - a value of any kind
        if not is_right(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _each(is_right: Callable[[str], object], message: str) -> AfterValidator:
    """A check of all names. Its error has no index, because a name alone needs no list."""
    return _check(lambda names: all(map(is_right, names)), message)


def _like(pattern: str, message: str) -> AfterValidator:
    return _check(re.compile(pattern, re.ASCII).fullmatch, message)


def _not_in(names: tuple[str, ...], message: str) -> AfterValidator:
    return _check(lambda value: value not in names, message)


def _is_parsable(url: str) -> bool:
    """Return False for a URL that no client could use: a bad IPv6 address or port, or a missing host."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname and ".." not in parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _has_parsable_addresses(url: str) -> bool:
    # A sentinel URL has several addresses, and a file or socket URL has none.
    _, _, rest = url.partition("://")
    addresses = rest.partition("/")[0].rpartition("@")[2].partition("?")[0]
    return all(_is_parsable(f"//{address}") for address in addresses.split(",") if addresses)


Choice = BeforeValidator(_lower)
Name = Annotated[str, Field(min_length=1)]
Host = Annotated[Name, _like(r"[^\0]*", "should be an address or the name of a host")]
# https://cloud.google.com/resource-manager/docs/creating-managing-projects; old ids have a domain in front.
# Instances are stored under the id of their project: listed under its number they would count twice.
ProjectId = Annotated[
    str,
    BeforeValidator(_number_as_text),
    _like(r"(?!\d+$).*", "should be a project's id, not its number"),
    _like(
        r"(([a-z0-9]([a-z0-9.-]*[a-z0-9])?:)?[a-z]([a-z0-9-]*[a-z0-9])?)?",
        "should be a project's id, like example-project or example.com:example-project",
    ),
]
ProjectIds = Annotated[
    tuple[Annotated[ProjectId, Field(min_length=1)], ...],
    NoDecode,
    BeforeValidator(_unpack_json),
    AfterValidator(_distinct),
]
_ONE_WORD: Final = re.compile(r"[^\s,]+")
_ACCOUNT: Final = re.compile(r"[^@:]+@[^@:]+")
_AS_A_LIST: Final = "should not contain a comma or a space; give several as a list (in a variable: JSON)"
Audiences = Annotated[
    tuple[Name, ...],
    NoDecode,
    BeforeValidator(_one_or_many),
    _each(_ONE_WORD.fullmatch, _AS_A_LIST),
    _each(lambda name: "://" not in name or _is_parsable(name), "should be a URL that can be parsed"),
    AfterValidator(_distinct),
]
Accounts = Annotated[
    tuple[Name, ...],
    NoDecode,
    BeforeValidator(_one_or_many),
    _each(_ONE_WORD.fullmatch, _AS_A_LIST),
    _each(_ACCOUNT.fullmatch, "should be an account's e-mail address, like name@example.com"),
    AfterValidator(_distinct),
]
Subscription = Annotated[str, _like(r"[^\s,]*", "should be one subscription's name")]
Number = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=_YEAR_SECONDS)]
Port = Annotated[Number, Field(le=65535)]
Count = Annotated[int, BeforeValidator(_no_boolean), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=_YEAR_SECONDS)]
HttpUrl = Annotated[
    str,
    _like(rf"https?://{_HOST}", "should be an http:// or https:// URL"),
    _check(_is_parsable, "should be a URL that can be parsed"),
]
HttpUrlOrNone = Annotated[
    str,
    _like(rf"(https?://{_HOST})?", "should be an http:// or https:// URL, or empty"),
    _check(lambda url: not url or _is_parsable(url), "should be a URL that can be parsed, or empty"),
]
# redis-py takes database 0 for a path that is not a number.
StoreUrl = Annotated[
    str,
    _like(
        rf"sqlite:///[^\0\n]+|rediss?://([^@/?#\s]*@)?{_ADDRESS}(/\d*)?(\?\S*)?|unix://([^@/?#\s]*@)?/\S+"
        rf"|rediss?\+sentinel://([^@/?#\s]*@)?{_ADDRESS}(,{_ADDRESS})*/[\w.-]+(\?\S*)?",
        "should be a URL: sqlite:///file, redis://host/0, rediss://host/0, unix:///socket"
        " or redis+sentinel://host,host/service",
    ),
    _check(_has_parsable_addresses, "should be a URL whose hosts and ports can be parsed"),
]
# https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
KeyPrefix = Annotated[
    str, _like(r"[^{}\s]+", "should be a name without braces and spaces, like spot-interruption-exporter")
]
MetricsPath = Annotated[
    str,
    _like(r"(?!/events/)(/[\w.~-]+)+", "should be a path like /metrics, and not below /events/"),
    _not_in(_PATHS, "is the path of something else that the exporter serves"),
]
# https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels
LabelName = Annotated[
    str,
    _like(r"(?!__)[a-zA-Z_]\w*", "should be a Prometheus label name"),
    _not_in(_OTHER_LABELS, "is the name of another label of the exporter's metrics"),
    _not_in(_TARGET_LABELS, "is a label that Prometheus gives to targets or buckets; choose another name"),
]
