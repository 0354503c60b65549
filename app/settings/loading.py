"""The settings, loaded from a YAML file and the environment."""

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.errors import ConfigurationError
from app.settings.file import read_file
from app.settings.tree import PREFIX, Settings, leaves, section_names, variable

_SUBSCRIPTION_DAYS: Final = 7  # Pub/Sub redelivers a message for this long by default
_OPERATION_SECONDS: Final = 3000  # of the hour for which Google keeps an operation at least
_SIMILAR: Final = 0.9  # below it, a suggested name is more often wrong than right


class _Variables(EnvSettingsSource):
    """The variables of a mapping, not those of the process."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): text for name, text in variables.items()}


class _Sourced(Settings, BaseSettings):
    """The settings, built from `content` (of the file) and `variables`; a variable wins."""

    # File keys are matched as they are written; the library would match `PORT` to `port`.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX.lower(), env_nested_delimiter="__", case_sensitive=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)  # noqa: S101 - the library's own
        given = init_settings.init_kwargs
        return (
            _Variables(settings_cls, given["variables"]),
            InitSettingsSource(settings_cls, given["content"]),
        )


def config_path(option: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file: the `--config` option, else `$CONFIG_PATH`, else None."""
    named = environ.get("CONFIG_PATH")
    return option or (Path(named) if named else None)


def load_settings(path: Path | None, environ: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings from a file (if any) and the environment, which wins; and the warnings to log.

    Raises ConfigurationError with a line per wrong key: its source and its name, never its value.
    """
    keys = {variable(key) for key, _ in leaves(Settings)}
    known = {name: text for name, text in environ.items() if name in keys}
    content = {} if path is None else read_file(path)
    if wrong := [name for name in section_names() if not isinstance(content.get(name), dict | None)]:
        # A variable would replace such a section without a word.
        raise ConfigurationError([f"{path}: {name}: {_MESSAGES['model_type']}" for name in wrong])
    try:
        settings = _Sourced(content=content, variables=known)  # type: ignore[call-arg]
    except ValidationError as exc:
        raise ConfigurationError(_problems(exc, path, known)) from exc
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in keys)
    return settings, tuple(_warnings(settings, unknown, keys))


_MESSAGES: Final[Mapping[str, str]] = {
    "extra_forbidden": "unknown key",
    "model_type": "should be a mapping of keys",
    "string_type": "should be text; put the value in quotes",
    "tuple_type": "should be a list (in a variable: JSON)",
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("too_short", "string_too_short"), "should not be empty"),
}
"""The messages in place of those of the library, which are about its own parsing."""


def _problems(exc: ValidationError, path: Path | None, known: Mapping[str, str]) -> Iterator[str]:
    for error in exc.errors(include_url=False, include_input=False):
        key = ".".join(map(str, error["loc"]))
        names = [".".join(part for part in error["loc"] if isinstance(part, str))]
        if error["type"] == "conflict":
            names.append(error["ctx"]["with"])
        # Of two keys that contradict each other, the one from a variable is named: variables hide easily.
        source = next((variable(name) for name in names if variable(name) in known), path)
        message = _MESSAGES.get(error["type"], re.sub("^(Value error, |Input |String )", "", error["msg"]))
        if error["type"] == "extra_forbidden":
            message += _hint(key, [known_key for known_key, _ in leaves(Settings)])
        yield f"{source or variable(names[0])}: {key}: {message}"


def _warnings(settings: Settings, unknown: list[str], known: Collection[str]) -> Iterator[str]:
    for name in unknown:
        yield f"{name}: unknown setting, ignored{_did_you_mean(name, known)}"
    if settings.pubsub.delivery == "push" and settings.pubsub.authentication == "none":
        yield "PUSHES ARE NOT AUTHENTICATED (pubsub.authentication is none): anyone can push events"
    if settings.one_listener:
        shown = f"{settings.prometheus.path}, / and /interruptions"
        yield f"prometheus.port is server.port: {shown} are as public as the main listener; set another port"
    if settings.store.retention_days <= _SUBSCRIPTION_DAYS:
        yield "store.retention_days is below 8: a message that is redelivered after 7 days can count again"
    recovery = settings.recovery
    if recovery.enabled and recovery.interval_seconds + recovery.settle_seconds > _OPERATION_SECONDS:
        yield (
            "recovery.interval_seconds and recovery.settle_seconds together are above 3000: Google promises "
            "to keep operations for an hour only, so some may be missed; lower one of them"
        )


def _hint(key: str, known: Collection[str]) -> str:
    section, _, name = key.rpartition(".")
    if key in known:  # as one word, with the dot in it
        return f" (write `{name}` below `{section}`)"
    return _did_you_mean(key, known)


def _did_you_mean(name: str, known: Collection[str]) -> str:
    similar = get_close_matches(
        name.lower().replace("-", "_"), [other.lower() for other in known], n=1, cutoff=_SIMILAR
    )
    meant = next((other for other in known if [other.lower()] == similar), None)
    return f" (did you mean {meant}?)" if meant else ""
