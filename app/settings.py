"""The one frozen settings tree, from a YAML file and the environment."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from app.errors import ConfigurationError

_PREFIX: Final = "SIE_"
_YEAR_SECONDS: Final = 31_536_000
_SUBSCRIPTION_DAYS: Final = 7  # Pub/Sub redelivers for this long at most

_FLEET_LABELS: Final = ("project", "cluster_location", "node_pool", "zone", "machine_type")
_LABELS: Final = (*_FLEET_LABELS, "endpoint", "outcome", "reason", "by", "version", "python_version", "le")
_DAY_SECONDS: Final = 86400
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


def _like(pattern: str, said: str, taken: tuple[str, ...] = ()) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(said)
        if value in taken:
            raise ValueError("is taken: another of the exporter's has this name")
        return value

    return AfterValidator(check)


_Choice = BeforeValidator(_lower)
_Name = Annotated[str, Field(min_length=1)]
# Instances are kept under their project's id: listed under its number they would count twice.
_ProjectId = Annotated[str, _like(r"(?!\d+$).*", "should be a project's id, not its number")]
_ProjectIds = Annotated[
    tuple[Annotated[_ProjectId, Field(min_length=1)], ...],
    NoDecode,
    BeforeValidator(_unpack_json),
    AfterValidator(_distinct),
]
_NameOrNames = Annotated[
    tuple[_Name, ...], NoDecode, BeforeValidator(_one_or_many), AfterValidator(_distinct)
]
_Number = Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=_YEAR_SECONDS)]
_Port = Annotated[_Number, Field(le=65535)]
_Count = Annotated[int, BeforeValidator(_no_boolean), Field(gt=0)]
_Seconds = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=_YEAR_SECONDS)]
_HttpUrl = Annotated[str, _like(rf"https?://{_HOST}", "should be an http:// or https:// URL")]
_HttpUrlOrNone = Annotated[
    str, _like(rf"(https?://{_HOST})?", "should be an http:// or https:// URL, or empty")
]
_StoreUrl = Annotated[
    str,
    _like(
        rf"sqlite:///.+|rediss?://([^@/?#\s]*@)?{_HOST}|unix://([^@/?#\s]*@)?/\S+"
        rf"|rediss?\+sentinel://([^@/?#\s]*@)?{_ADDRESS}(,{_ADDRESS})*/[\w.-]+(\?\S*)?",
        "should be a URL: sqlite:///file, redis://host, rediss://host, unix:///socket"
        " or redis+sentinel://host,host/service",
    ),
]
_MetricsPath = Annotated[
    str, _like(r"(?!/events/)(/[\w.~-]+)+", "should be a path like /metrics, and not below /events/", _PATHS)
]
# https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels
_LabelName = Annotated[str, _like(r"(?!__)[a-zA-Z_]\w*", "should be a Prometheus label name", _LABELS)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        str_strip_whitespace=True,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty_keys(cls, given: Any) -> Any:  # noqa: ANN401
        # A key with nothing behind it is null in YAML, and means its default.
        if not isinstance(given, dict):
            return given
        return {
            key: value for key, value in given.items() if value is not None or key not in cls.model_fields
        }


class PubSubSettings(_Section):
    """Which pushes are taken."""

    instance_creation_subscription_name: str = Field("", description="pushes to /events/creation; empty: any")
    instance_interruption_subscription_name: str = Field(
        "", description="pushes to /events/interruption; empty: any"
    )
    authentication: Annotated[Literal["oidc", "none"], _Choice] = Field(
        "oidc", description="`oidc`, or `none` for emulators and local use"
    )
    audience: _NameOrNames = Field((), description="a push token's audience, or a list; required with `oidc`")
    service_account_email: _NameOrNames = Field((), description="who pushes, or a list; required with `oidc`")
    certs_url: _HttpUrl = Field(
        "https://www.googleapis.com/oauth2/v1/certs", description="where the certificates of push tokens are"
    )
    clock_skew_seconds: _Number = Field(10, description="seconds by which a push token's times may be off")

    @field_validator("audience", "service_account_email")
    @classmethod
    def _needed_for_oidc(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not names and info.data.get("authentication") == "oidc":
            raise ValueError("is required with authentication oidc")
        return names


class PrometheusSettings(_Section):
    """How the metrics are shown."""

    port: _Port | None = Field(None, description="the metrics listener's; default: the same as `server.port`")
    path: _MetricsPath = Field("/metrics", description="where the metrics are")
    cluster_label: _LabelName = Field("kubernetes_cluster", description="the label that names the cluster")
    hold_seconds: _Seconds = Field(
        0, description="seconds a new label set shows 0 first: two scrape intervals"
    )
    linger_seconds: _Seconds = Field(0, description="seconds the metrics stay up after SIGTERM")
    max_label_sets: _Count = Field(
        10_000, description="label sets at most; further ones are counted under `other`"
    )


class ServerSettings(_Section):
    """The listener that an ingress reaches."""

    host: _Name = Field("0.0.0.0", description="address that the listeners bind")  # noqa: S104  # it runs in a pod
    port: _Port = Field(8080, description="the push endpoints'; 0: the kernel chooses")
    max_body_bytes: _Count = Field(1_048_576, description="bytes of a request's body at most")
    keep_alive_seconds: _Number = Field(
        620, description="seconds for idle connections; above the balancer's 600"
    )
    drain_seconds: _Seconds = Field(0, description="seconds pushes are still taken after SIGTERM")


class StoreSettings(_Section):
    """Where the exporter remembers."""

    url: _StoreUrl = Field(
        "sqlite:///spot-interruption-exporter.db",
        repr=False,
        description="`sqlite:///relative`, `sqlite:////absolute`, `sqlite:///:memory:` or `redis://…`",
    )
    retention_days: Annotated[_Count, Field(le=3650)] = Field(
        31, description="days that events are remembered"
    )
    replica: str = Field("", description="this replica's stable name, Redis only; default: the host name")


class InventorySettings(_Section):
    """How the fleet is listed."""

    enabled: bool = Field(default=True, description="list the fleet; off by itself where no project is named")
    interval_seconds: Annotated[_Seconds, Field(gt=0)] = Field(
        600, description="seconds between two listings"
    )
    endpoint: _HttpUrlOrNone = Field(
        "", description="another Compute API endpoint; with http:// no credentials are used"
    )


class AttributionSettings(_Section):
    """How an interruption finds its cluster."""

    grace_seconds: _Seconds = Field(
        1800, description="seconds an interruption waits for its unknown instance"
    )


class Settings(_Section):
    """Everything that can be configured; `load_settings` makes it."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], _Choice] = Field(
        "info", description="`debug`, `info`, `warning` or `error`"
    )
    project_name: _ProjectId = Field("", description="the project whose fleet is listed")
    projects: _ProjectIds = Field((), description="several projects, in place of `project_name`")
    pubsub: PubSubSettings
    prometheus: PrometheusSettings = PrometheusSettings()
    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    inventory: InventorySettings = InventorySettings()
    attribution: AttributionSettings = AttributionSettings()

    @field_validator("projects")
    @classmethod
    def _named_one_way(cls, projects: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if projects and info.data.get("project_name"):
            raise ValueError("is given beside project_name; give one of the two")
        return projects

    @field_validator("attribution")
    @classmethod
    def _within_memory(cls, attribution: AttributionSettings, info: ValidationInfo) -> AttributionSettings:
        store = info.data.get("store")
        if store is not None and attribution.grace_seconds >= store.retention_days * _DAY_SECONDS:
            raise ValueError("grace_seconds should be shorter than store.retention_days")
        return attribution

    @property
    def project_ids(self) -> tuple[str, ...]:
        """The projects to list, however they were named; there may be none."""
        return self.projects or ((self.project_name,) if self.project_name else ())

    @property
    def metrics_port(self) -> int:
        """The port of the metrics listener; the main listener's where they are one."""
        return self.server.port if self.prometheus.port is None else self.prometheus.port

    @property
    def one_listener(self) -> bool:
        """Whether the main listener serves the metrics too."""
        return self.metrics_port == self.server.port


class _Environment(Settings, BaseSettings):
    """The same keys as pydantic-settings reads them from variables; never instantiated."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__")


def config_path(option: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file: the `--config` option, else `$CONFIG_PATH`, else none."""
    named = environ.get("CONFIG_PATH")
    return option or (Path(named) if named else None)


def load_settings(path: Path | None, environ: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """The settings from a file (if any) and the environment, which wins; and the warnings to log.

    Raises ConfigurationError with a line for each wrong key: where it was set and its name, never its value.
    """
    keys = {variable(key) for key, _ in _leaves(Settings)}
    known = {name: text for name, text in environ.items() if name in keys}
    given = _merged({} if path is None else _read(path), _overrides(known))
    try:
        settings = Settings.model_validate(given)
    except ValidationError as exc:
        raise ConfigurationError(_problems(exc, path, known)) from exc
    unknown = sorted(name for name in environ if name.startswith(_PREFIX) and name not in keys)
    return settings, tuple(_warnings(settings, unknown))


def variable(key: str) -> str:
    """The environment variable that overrides a dotted key."""
    return _PREFIX + key.replace(".", "__").upper()


def describe() -> list[tuple[str, str, str]]:
    """Every dotted key with its default as text and its description, in the tree's order."""
    return [(key, _as_text(field.default), field.description or "") for key, field in _leaves(Settings)]


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _as_text(default: object) -> str:
    if default is None or default == ():
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _read(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as exc:
        raise ConfigurationError([f"{path}: cannot be read: {exc.strerror}"]) from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        # The library's own message quotes the file.
        mark = getattr(exc, "problem_mark", None)
        where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError([f"{path}: is not YAML{where}"]) from None
    if not isinstance(content, dict | None):
        raise ConfigurationError([f"{path}: should be a mapping of keys"])
    return content or {}


def _overrides(variables: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(_Environment)
    source.env_vars = {name.lower(): text for name, text in variables.items()}  # and not the process's own
    return source()


def _merged(file: dict[Any, Any], overrides: dict[str, Any]) -> dict[Any, Any]:
    # `pubsub` is always there, so that what it lacks is told by key.
    merged = {**file, "pubsub": {} if file.get("pubsub") is None else file["pubsub"]}
    for key, value in overrides.items():
        under = {} if merged.get(key) is None else merged[key]
        if not isinstance(value, dict):
            merged[key] = value
        elif isinstance(under, dict):
            merged[key] = under | value
    return merged


_SAID: Final[Mapping[str, str]] = {
    "extra_forbidden": "is not a key",
    "model_type": "should be a mapping of keys",
    "tuple_type": "should be a list; in the environment, of JSON",
}


def _problems(exc: ValidationError, path: Path | None, known: Mapping[str, str]) -> Iterator[str]:
    for error in exc.errors(include_url=False, include_context=False, include_input=False):
        key = ".".join(map(str, error["loc"]))
        name = variable(".".join(part for part in error["loc"] if isinstance(part, str)))
        where = name if name in known or path is None else path
        said = re.sub("^(Value error, |Input |String )", "", error["msg"])
        yield f"{where}: {key}: {_SAID.get(error['type'], said)}"


def _warnings(settings: Settings, unknown: list[str]) -> Iterator[str]:
    if unknown:
        yield f"no keys of the exporter, and ignored: {', '.join(unknown)}"
    if settings.pubsub.authentication == "none":
        yield "PUSHES ARE NOT AUTHENTICATED (pubsub.authentication is none): whoever can reach us is believed"
    if settings.one_listener:
        shown = f"{settings.prometheus.path}, / and /interruptions"
        yield f"prometheus.port is server.port: {shown} are public on the listener an ingress reaches"
    if settings.store.retention_days <= _SUBSCRIPTION_DAYS:
        yield "store.retention_days is below 8: what a subscription redelivers after 7 days would count again"
