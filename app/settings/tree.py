"""The settings tree: every key with its default, its description and the kind of its value."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from app.settings.kinds import (
    Accounts,
    Audiences,
    Choice,
    Count,
    Host,
    HttpUrl,
    HttpUrlOrNone,
    KeyPrefix,
    LabelName,
    MetricsPath,
    Number,
    Port,
    ProjectId,
    ProjectIds,
    Seconds,
    StoreUrl,
    Subscription,
)

PREFIX: Final = "SIE_"
"""The first letters of every environment variable."""
_DAY_SECONDS: Final = 86400
_WHOLE_SUBSCRIPTION: Final = re.compile(r"projects/[^/]+/subscriptions/[^/]+")
_STORE_URL: Final = TypeAdapter(StoreUrl)


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
        # A key without a value is null in YAML, and has its default.
        if not isinstance(given, dict):
            return given
        return {
            key: value for key, value in given.items() if value is not None or key not in cls.model_fields
        }


def _fault_of(fault: PydanticCustomError, *keys: str) -> ValidationError:
    """Return the error of these keys in a section."""
    details = [InitErrorDetails(type=fault, loc=(key,), input=None) for key in keys]
    return ValidationError.from_exception_data("settings", details)


class PubSubSettings(_Section):
    """The subscriptions, and how their messages arrive."""

    delivery: Annotated[Literal["push", "pull"], Choice] = Field(
        "push", description="`push`, or `pull`, which needs the extra `pull` and no public endpoint"
    )
    instance_creation_subscription_name: Subscription = Field(
        "", description="the subscription to creations; empty: any that pushes to /events/creation"
    )
    instance_interruption_subscription_name: Subscription = Field(
        "", description="the subscription to interruptions; empty: any that pushes to /events/interruption"
    )
    authentication: Annotated[Literal["oidc", "none"], Choice] = Field(
        "oidc", description="`oidc`, or `none` for emulators and local use"
    )
    audience: Audiences = Field(
        (), description="the audience of push tokens, or a list; required with `oidc`"
    )
    service_account_email: Accounts = Field(
        (), description="the account of push tokens, or a list; required with `oidc`"
    )
    certs_url: HttpUrl = Field(
        "https://www.googleapis.com/oauth2/v1/certs",
        description="URL of the keys that verify push tokens: PEM certificates, or a JSON Web Key Set",
    )
    clock_skew_seconds: Number = Field(10, description="seconds by which a push token's times may be off")

    @field_validator("instance_creation_subscription_name", "instance_interruption_subscription_name")
    @classmethod
    def _needed_for_pull(cls, name: str, info: ValidationInfo) -> str:
        if not name and info.data.get("delivery") == "pull":
            raise ValueError("is required with delivery pull")
        return name

    @field_validator("audience", "service_account_email")
    @classmethod
    def _needed_for_oidc(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not names and info.data.get("authentication") == "oidc" and info.data.get("delivery") == "push":
            raise ValueError("is required with authentication oidc")
        return names

    @property
    def authenticates_pushes(self) -> bool:
        """True if pushes arrive, and each needs a token."""
        return self.delivery == "push" and self.authentication == "oidc"


class PrometheusSettings(_Section):
    """The metrics listener and what the metrics look like."""

    port: Port | None = Field(None, description="port of the metrics listener; default: `server.port`")
    path: MetricsPath = Field("/metrics", description="path of the metrics")
    cluster_label: LabelName = Field("kubernetes_cluster", description="the label that names the cluster")
    hold_seconds: Seconds = Field(
        0, description="seconds for which a new label set shows 0 first; set two scrape intervals"
    )
    linger_seconds: Seconds = Field(0, description="seconds for which the metrics stay up after SIGTERM")
    max_label_sets: Count = Field(
        10_000, description="largest number of label sets; further ones are counted under `other`"
    )


class ServerSettings(_Section):
    """The listener that an ingress reaches."""

    host: Host = Field("0.0.0.0", description="address that the listeners bind")  # noqa: S104  # it runs in a pod
    port: Port = Field(8080, description="port of the push endpoints; 0: the kernel chooses")
    max_body_bytes: Count = Field(1_048_576, description="largest body of a request, in bytes")
    max_connections: Count = Field(
        2000, description="largest number of connections; beyond it, the longest idle one is closed"
    )
    keep_alive_seconds: Number = Field(
        620, description="seconds for which an idle connection is kept; above the balancer's 600"
    )
    drain_seconds: Seconds = Field(0, description="seconds for which pushes are still accepted after SIGTERM")


class StoreSettings(_Section):
    """The store of instances, interruptions and totals."""

    url: StoreUrl = Field(
        "sqlite:///spot-interruption-exporter.db",
        repr=False,
        description="`sqlite:///relative`, `sqlite:////absolute`, `sqlite:///:memory:` or `redis://…`",
    )
    url_file: str = Field(
        "", description="a file that holds the URL, such as a mounted secret, instead of `store.url`"
    )
    retention_days: Annotated[Count, Field(le=3650)] = Field(
        31, description="days for which events are remembered"
    )
    key_prefix: KeyPrefix = Field(
        "spot-interruption-exporter",
        description="beginning of every key, Redis only; each installation on one database needs its own",
    )
    replica: str = Field("", description="stable name of this replica, Redis only; default: the host name")

    @model_validator(mode="before")
    @classmethod
    def _url_of_file(cls, given: Any) -> Any:  # noqa: ANN401
        if not isinstance(given, dict) or not (path := given.get("url_file")):
            return given
        if given.get("url"):
            message = "cannot be given together with store.url; keep one of the two"
            raise _fault_of(PydanticCustomError("conflict", message, {"with": "store.url"}), "url_file")
        try:
            url = Path(str(path)).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            reason = str(exc.strerror) if isinstance(exc, OSError) else "it is not text"
            message = "names a file that cannot be read: {reason}"
            unreadable = PydanticCustomError("unreadable", message, {"reason": reason})
            raise _fault_of(unreadable, "url_file") from None
        try:
            _STORE_URL.validate_python(url)
        except ValidationError as exc:
            # The error of `url` would name a key that the user did not write.
            wanted = exc.errors()[0]["msg"].removeprefix("Value error, ")
            wrong = PydanticCustomError("no_url", "names a file whose content {wanted}", {"wanted": wanted})
            raise _fault_of(wrong, "url_file") from None
        return {**given, "url": url}


class InventorySettings(_Section):
    """The listing of the fleet."""

    enabled: bool = Field(default=True, description="list the fleet; always off if no project is named")
    interval_seconds: Annotated[Seconds, Field(gt=0)] = Field(600, description="seconds between two listings")
    endpoint: HttpUrlOrNone = Field(
        "", description="another Compute API endpoint; with http:// no credentials are used"
    )


class RecoverySettings(_Section):
    """The search for interruptions without a push, among the operations of Compute Engine."""

    enabled: bool = Field(default=True, description="read the operations; always off if the inventory is off")
    interval_seconds: Annotated[Seconds, Field(gt=0)] = Field(
        900, description="seconds between two readings of the operations"
    )
    settle_seconds: Seconds = Field(300, description="seconds for which an operation is left to its push")


class AttributionSettings(_Section):
    """The search for an interruption's cluster."""

    grace_seconds: Seconds = Field(
        1800, description="seconds for which an interruption waits for its unknown instance"
    )


class Settings(_Section):
    """Everything that can be configured."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Choice] = Field(
        "info", description="`debug`, `info`, `warning` or `error`"
    )
    project_name: ProjectId = Field("", description="the project whose fleet is listed")
    projects: ProjectIds = Field((), description="several projects, instead of `project_name`")
    # Validated even if it is missing, so that the keys that it lacks are named.
    pubsub: PubSubSettings = Field(default_factory=dict, validate_default=True)
    prometheus: PrometheusSettings = PrometheusSettings()
    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    inventory: InventorySettings = InventorySettings()
    recovery: RecoverySettings = RecoverySettings()
    attribution: AttributionSettings = AttributionSettings()

    @field_validator("projects")
    @classmethod
    def _named_in_one_way(cls, projects: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if projects and info.data.get("project_name"):
            message = "cannot be given together with project_name; keep one of the two"
            raise PydanticCustomError("conflict", message, {"with": "project_name"})
        return projects

    @field_validator("pubsub")
    @classmethod
    def _in_a_project(cls, pubsub: PubSubSettings, info: ValidationInfo) -> PubSubSettings:
        if pubsub.delivery == "push" or info.data.get("project_name"):
            return pubsub
        message = "should be projects/PROJECT/subscriptions/NAME, because no project_name is given"
        incomplete = [
            key
            for key in ("instance_creation_subscription_name", "instance_interruption_subscription_name")
            if not _WHOLE_SUBSCRIPTION.fullmatch(getattr(pubsub, key))
        ]
        if incomplete:
            raise _fault_of(PydanticCustomError("incomplete", message), *incomplete)
        return pubsub

    @field_validator("attribution")
    @classmethod
    def _within_retention(cls, attribution: AttributionSettings, info: ValidationInfo) -> AttributionSettings:
        store = info.data.get("store")
        if store is not None and attribution.grace_seconds >= store.retention_days * _DAY_SECONDS:
            message = "should be shorter than store.retention_days"
            conflict = PydanticCustomError("conflict", message, {"with": "store.retention_days"})
            raise _fault_of(conflict, "grace_seconds")
        return attribution

    @property
    def project_ids(self) -> tuple[str, ...]:
        """The projects to list, from either key; empty if none is named."""
        return self.projects or ((self.project_name,) if self.project_name else ())

    @property
    def pulled_subscriptions(self) -> tuple[str, str]:
        """The whole names of the subscriptions to creations and to interruptions, for `pull`."""
        names = (
            self.pubsub.instance_creation_subscription_name,
            self.pubsub.instance_interruption_subscription_name,
        )
        creations, interruptions = (
            name
            if _WHOLE_SUBSCRIPTION.fullmatch(name)
            else f"projects/{self.project_name}/subscriptions/{name}"
            for name in names
        )
        return creations, interruptions

    @property
    def metrics_port(self) -> int:
        """The port of the metrics listener, which may be the main listener's."""
        return self.server.port if self.prometheus.port is None else self.prometheus.port

    @property
    def one_listener(self) -> bool:
        """True if the main listener serves the metrics too."""
        return self.metrics_port == self.server.port


def variable(key: str) -> str:
    """Return the environment variable that overrides a dotted key."""
    return PREFIX + key.replace(".", "__").upper()


def describe() -> list[tuple[str, str, str]]:
    """Return every dotted key with its default as text and its description, in the tree's order."""
    return [(key, _as_text(field.default), field.description or "") for key, field in leaves(Settings)]


def section_names() -> Iterator[str]:
    """Return the names of the sections."""
    return (name for name, field in Settings.model_fields.items() if _section_of(field))


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Return every dotted key below a section, with its field."""
    for name, field in model.model_fields.items():
        if section := _section_of(field):
            yield from leaves(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _as_text(default: object) -> str:
    if default is None or default == ():
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
