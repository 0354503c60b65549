import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import ValidationError

from app.errors import ConfigurationError
from app.settings import PubSubSettings, Settings, config_path, describe, load_settings, variable

EXAMPLE: Final = """
log_level: info
project_name: example-project
pubsub:
  delivery: push
  instance_creation_subscription_name: sie-creation-subscription
  instance_interruption_subscription_name: sie-interruption-subscription
  authentication: oidc
  audience: https://sie.example.com
  service_account_email: sie-push@example-project.iam.gserviceaccount.com
  certs_url: https://www.googleapis.com/oauth2/v1/certs
  clock_skew_seconds: 10
prometheus:
  port: 8090
  path: /metrics
  cluster_label: kubernetes_cluster
  hold_seconds: 0
  linger_seconds: 0
  max_label_sets: 10000
server:
  host: 0.0.0.0
  port: 8080
  max_body_bytes: 1048576
  max_connections: 2000
  keep_alive_seconds: 620
  drain_seconds: 0
store:
  url: sqlite:///spot-interruption-exporter.db
  retention_days: 31
  key_prefix: spot-interruption-exporter
  replica: ""
inventory:
  enabled: true
  interval_seconds: 600
  endpoint: ""
recovery:
  enabled: true
  interval_seconds: 900
  settle_seconds: 300
attribution:
  grace_seconds: 1800
"""

ORIGINAL: Final = """
log_level: info
project_name: example-project
pubsub:
  instance_creation_subscription_name: sie-creation-subscription
  instance_interruption_subscription_name: sie-interruption-subscription
prometheus:
  port: "8090"
  path: /metrics
"""

CALLER: Final = {
    "SIE_PUBSUB__AUDIENCE": "https://sie.example.com",
    "SIE_PUBSUB__SERVICE_ACCOUNT_EMAIL": "push@example.com",
}

NO_DEFAULT: Final = {
    "project_name": "example-project",
    "pubsub.instance_creation_subscription_name": "sie-creation-subscription",
    "pubsub.instance_interruption_subscription_name": "sie-interruption-subscription",
    "pubsub.audience": "https://sie.example.com",
    "pubsub.service_account_email": "sie-push@example-project.iam.gserviceaccount.com",
    "prometheus.port": 8090,
}

Write = Callable[[str], Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def read(settings: Settings, key: str) -> object:
    value: object = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def flat(tree: Mapping[str, Any]) -> dict[str, object]:
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        below = flat(value) if isinstance(value, dict) else {"": value}
        leaves |= {f"{key}.{name}".rstrip("."): leaf for name, leaf in below.items()}
    return leaves


def problems(path: Path | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, environ)
    return caught.value.problems


def warnings(environ: Mapping[str, str]) -> tuple[str, ...]:
    return load_settings(None, {**CALLER, "SIE_PROMETHEUS__PORT": "8090", **environ})[1]


def test_the_example_has_every_key_but_its_alternative() -> None:
    assert set(flat(yaml.safe_load(EXAMPLE))) == {key for key, _, _ in describe()} - {
        "projects",
        "store.url_file",
    }


def test_the_example_shows_the_defaults_where_there_are_any() -> None:
    shown = flat(yaml.safe_load(EXAMPLE))
    defaults = Settings(pubsub=PubSubSettings(authentication="none"))

    assert {key: value for key, value in shown.items() if key in NO_DEFAULT} == NO_DEFAULT
    for key in shown.keys() - NO_DEFAULT - {"pubsub.authentication"}:
        assert read(defaults, key) == shown[key], key


def test_the_example_is_the_defaults_and_what_has_none(file: Write) -> None:
    environ = {variable(key): str(value) for key, value in NO_DEFAULT.items()}

    assert load_settings(file(EXAMPLE), {}) == load_settings(None, environ)


def test_the_example_warns_of_nothing(file: Write) -> None:
    assert load_settings(file(EXAMPLE), {})[1] == ()


def test_an_original_file_loads_with_caller_and_audience_from_the_environment(file: Write) -> None:
    settings, warned = load_settings(file(ORIGINAL), CALLER)

    assert settings.project_ids == ("example-project",)
    assert settings.metrics_port == 8090
    assert settings.pubsub.audience == ("https://sie.example.com",)
    assert settings.pubsub.service_account_email == ("push@example.com",)
    assert warned == ()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "pubsub:\nserver:\n  port:\nlog_level:\n"])
def test_a_key_without_a_value_has_its_default(file: Write, text: str) -> None:
    assert load_settings(file(text), CALLER) == load_settings(None, CALLER)


OVERRIDES: Final = {
    "log_level": ("DEBUG", "debug"),
    "project_name": ("other", "other"),
    "projects": ('["a", "b"]', ("a", "b")),
    "pubsub.delivery": ("push", "push"),
    "pubsub.instance_creation_subscription_name": ("c", "c"),
    "pubsub.instance_interruption_subscription_name": ("i", "i"),
    "pubsub.authentication": ("none", "none"),
    "pubsub.audience": ("https://other.example.com", ("https://other.example.com",)),
    "pubsub.service_account_email": ('["a@b.example", "c@d.example"]', ("a@b.example", "c@d.example")),
    "pubsub.certs_url": ("http://127.0.0.1:9000/certs", "http://127.0.0.1:9000/certs"),
    "pubsub.clock_skew_seconds": ("25", 25),
    "prometheus.port": ("0", 0),
    "prometheus.path": ("/other/metrics", "/other/metrics"),
    "prometheus.cluster_label": ("target_kubernetes_cluster", "target_kubernetes_cluster"),
    "prometheus.hold_seconds": ("60", 60),
    "prometheus.linger_seconds": ("61", 61),
    "prometheus.max_label_sets": ("62", 62),
    "server.host": ("::1", "::1"),
    "server.port": ("65535", 65535),
    "server.max_body_bytes": ("63", 63),
    "server.max_connections": ("69", 69),
    "server.keep_alive_seconds": ("64", 64),
    "server.drain_seconds": ("65", 65),
    "store.url": ("rediss://:word@redis:6379/1", "rediss://:word@redis:6379/1"),
    "store.url_file": ("", ""),
    "store.retention_days": ("66", 66),
    "store.key_prefix": ("sie:staging", "sie:staging"),
    "store.replica": ("exporter-0", "exporter-0"),
    "inventory.enabled": ("false", False),
    "inventory.interval_seconds": ("67", 67),
    "inventory.endpoint": ("http://localhost:9001", "http://localhost:9001"),
    "recovery.enabled": ("false", False),
    "recovery.interval_seconds": ("68", 68),
    "recovery.settle_seconds": ("0", 0),
    "attribution.grace_seconds": ("0.1", 0.1),
}


def test_every_key_is_overridden_below() -> None:
    assert list(OVERRIDES) == [key for key, _, _ in describe()]


@pytest.mark.parametrize(("key", "text", "value"), [(key, *pair) for key, pair in OVERRIDES.items()])
def test_the_environment_beats_the_file(file: Write, key: str, text: str, value: object) -> None:
    names_projects_by_name = key != "projects"
    path = file(EXAMPLE if names_projects_by_name else EXAMPLE.replace("project_name", "# project_name"))

    settings, warned = load_settings(path, {variable(key): text})

    assert read(settings, key) == value
    assert not any("ignored" in line for line in warned)


@pytest.mark.parametrize(
    ("key", "name"),
    [("log_level", "SIE_LOG_LEVEL"), ("pubsub.service_account_email", "SIE_PUBSUB__SERVICE_ACCOUNT_EMAIL")],
)
def test_a_variable_is_named_after_its_key(key: str, name: str) -> None:
    assert variable(key) == name


def test_the_process_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIE_SERVER__PORT", "1234")
    monkeypatch.setenv("SIE_LOG_LEVEL", "no such level")

    assert load_settings(None, CALLER)[0].server.port == 8080


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("one", ("one",), id="string"),
        pytest.param("[one, two]", ("one", "two"), id="list"),
        pytest.param("[one, two, one]", ("one", "two"), id="twice"),
        pytest.param('" one "', ("one",), id="blanks-around"),
    ],
)
def test_an_audience_is_a_string_or_a_list(file: Write, text: str, names: tuple[str, ...]) -> None:
    path = file(f"pubsub: {{authentication: none, audience: {text}}}")

    assert load_settings(path, {})[0].pubsub.audience == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("a@b.example", ("a@b.example",), id="string"),
        pytest.param("[a@b.example, c@d.example, a@b.example]", ("a@b.example", "c@d.example"), id="list"),
        pytest.param('" a@b.example "', ("a@b.example",), id="blanks-around"),
    ],
)
def test_an_account_is_a_string_or_a_list(file: Write, text: str, names: tuple[str, ...]) -> None:
    path = file(f"pubsub: {{authentication: none, service_account_email: {text}}}")

    assert load_settings(path, {})[0].pubsub.service_account_email == names


@pytest.mark.parametrize("project", ["a", "example-project", "example.com:example-project", "p-1"])
def test_a_project_id_may_have_a_domain(project: str) -> None:
    assert load_settings(None, CALLER | {"SIE_PROJECT_NAME": project})[0].project_ids == (project,)


@pytest.mark.parametrize("audience", ["https://sie.example.com/events", "https://[::1]:8443", "sie", "a:b"])
def test_an_audience_may_be_any_name_or_url(audience: str) -> None:
    settings, _ = load_settings(None, CALLER | {"SIE_PUBSUB__AUDIENCE": audience})

    assert settings.pubsub.audience == (audience,)


@pytest.mark.parametrize(
    ("environ", "projects"),
    [
        ({}, ()),
        ({"SIE_PROJECT_NAME": "a"}, ("a",)),
        ({"SIE_PROJECTS": '["a"]'}, ("a",)),
        ({"SIE_PROJECTS": '["b", "a", "b"]'}, ("b", "a")),
        ({"SIE_PROJECT_NAME": "", "SIE_PROJECTS": '["a"]'}, ("a",)),
        ({"SIE_PROJECT_NAME": "a", "SIE_PROJECTS": "[]"}, ("a",)),
    ],
)
def test_projects_are_named_one_way_or_not_at_all(environ: dict[str, str], projects: tuple[str, ...]) -> None:
    assert load_settings(None, CALLER | environ)[0].project_ids == projects


def test_projects_named_both_ways_are_an_error_that_names_both() -> None:
    (line,) = problems(None, {**CALLER, "SIE_PROJECT_NAME": "a", "SIE_PROJECTS": '["b"]'})

    assert line.startswith("SIE_PROJECTS: projects: ")
    assert "project_name" in line


@pytest.mark.parametrize(
    ("environ", "port", "one_listener"),
    [
        ({}, 8080, True),
        ({"SIE_SERVER__PORT": "81"}, 81, True),
        ({"SIE_PROMETHEUS__PORT": "8080"}, 8080, True),
        ({"SIE_PROMETHEUS__PORT": "0"}, 0, False),
    ],
)
def test_the_metrics_port_is_the_servers_unless_given(
    environ: dict[str, str], port: int, one_listener: object
) -> None:
    settings, _ = load_settings(None, CALLER | environ)

    assert (settings.metrics_port, settings.one_listener) == (port, one_listener)


OTHER_LABELS: Final = (
    *("project", "cluster_location", "node_pool", "zone", "machine_type", "endpoint", "outcome", "reason"),
    *("by", "version", "python_version", "le", "job", "instance", "namespace", "pod"),
)

WRONG: Final = [
    ("log_level", "s3cret"),
    ("log_level", "7"),
    ("project_name", "[s3cret]"),
    ("projects", "s3cret"),
    ("projects", "7"),
    ("pubsub.authentication", "s3cret"),
    ("pubsub.audience", '""'),
    ("pubsub.audience", "[]"),
    ("pubsub.audience", "{s3cret: s3cret}"),
    ("pubsub.audience", "'[s3cret'"),
    ("pubsub.audience", repr("[" * 100_000)),
    ("pubsub.service_account_email", '" "'),
    ("pubsub.certs_url", "ftp://s3cret"),
    ("pubsub.certs_url", '""'),
    ("pubsub.certs_url", "https://"),
    ("project_name", "'123456789'"),
    ("project_name", "123456789"),
    ("project_name", "yes"),
    ("project_name", "S3cret-project"),
    ("project_name", "s3cret project"),
    ("project_name", "s3cret,project"),
    ("project_name", "projects/s3cret"),
    ("project_name", "s3cret-"),
    ("project_name", "-s3cret"),
    ("project_name", "example.com:s3cret:x"),
    ("pubsub.audience", "https://a.example,https://s3cret"),
    ("pubsub.audience", "s3cret s3cret"),
    ("pubsub.audience", "https://[s3cret"),
    ("pubsub.audience", "https:///s3cret"),
    ("pubsub.audience", "https://s3cret:99999"),
    ("pubsub.service_account_email", "s3cret"),
    ("pubsub.service_account_email", "a@b.example,s3cret@d.example"),
    ("pubsub.service_account_email", "s3cret @b.example"),
    ("pubsub.service_account_email", "serviceAccount:s3cret@b.example"),
    ("pubsub.instance_creation_subscription_name", "s3cret s3cret"),
    ("pubsub.instance_interruption_subscription_name", "s3cret,s3cret"),
    ("pubsub.instance_interruption_subscription_name", "7"),
    ("pubsub.certs_url", "https://s3cret:99999/certs"),
    ("pubsub.certs_url", "https://[::s3cret]/certs"),
    ("pubsub.certs_url", "https://[:::::]/certs"),
    ("pubsub.certs_url", "https://s3cret..example/certs"),
    ("pubsub.clock_skew_seconds", "-1"),
    ("pubsub.clock_skew_seconds", ".nan"),
    ("pubsub.clock_skew_seconds", ".inf"),
    ("pubsub.clock_skew_seconds", "yes"),
    ("prometheus.port", "s3cret"),
    ("prometheus.port", "yes"),
    ("prometheus.port", "-1"),
    ("prometheus.port", "65536"),
    ("prometheus.path", "s3cret"),
    ("prometheus.path", "/"),
    ("prometheus.path", "/healthz"),
    ("prometheus.path", "/readyz"),
    ("prometheus.path", "/interruptions"),
    ("prometheus.path", "/openapi.json"),
    ("prometheus.path", "/events/creation"),
    ("prometheus.path", "/{s3cret}"),
    ("prometheus.path", "/metrics?s3cret"),
    ("prometheus.cluster_label", "s3cret-"),
    ("prometheus.cluster_label", "7s3cret"),
    ("prometheus.cluster_label", "__s3cret"),
    ("prometheus.cluster_label", "s3crét"),
    ("prometheus.cluster_label", '""'),
    *(("prometheus.cluster_label", name) for name in OTHER_LABELS),
    ("prometheus.max_label_sets", "0"),
    ("server.host", '""'),
    ("server.host", r'"s3cret\0"'),
    ("server.port", "on"),
    ("server.port", "80.5"),
    ("server.max_body_bytes", "0"),
    ("server.keep_alive_seconds", "-1"),
    ("server.drain_seconds", "s3cret"),
    ("store.url", "s3cret"),
    ("store.url", "sqlite://s3cret"),
    ("store.url", '"sqlite:///"'),
    ("store.url", r'"sqlite:///s3cret\0"'),
    ("store.url", "postgres://user:s3cret@host/db"),
    ("store.url", "redis://"),
    ("store.url", "redis://:s3cret@"),
    ("store.url", "redis://:s3/cret@host"),
    ("store.url", "redis://:word@host:s3cret"),
    ("store.url", "redis+sentinel://:s3cret@host"),
    ("store.url", "redis+sentinel://:s3cret@host/"),
    ("store.url", "redis+sentinel://:s3cret@host,/service"),
    ("store.url", "redis://:s3cret@host,host"),
    ("store.url", "redis://:s3cret@host:99999"),
    ("store.url", "redis://:s3cret@host/shop"),
    ("store.url", "redis://:s3cret@host/1/2"),
    ("store.url", "rediss://:s3cret@[:::::]:6379"),
    ("store.url", "redis+sentinel://:s3cret@host,host:99999/service"),
    ("store.key_prefix", "{s3cret}"),
    ("store.key_prefix", "s3cret}"),
    ("store.key_prefix", "s3 cret"),
    ("store.key_prefix", '""'),
    ("store.retention_days", "0"),
    ("store.retention_days", "true"),
    ("inventory.enabled", "s3cret"),
    ("inventory.interval_seconds", "0"),
    ("inventory.endpoint", "s3cret.example.com"),
    ("inventory.endpoint", "https://s3cret.example.com:0"),
    ("recovery.enabled", "s3cret"),
    ("recovery.interval_seconds", "0"),
    ("recovery.settle_seconds", "-1"),
    ("attribution.grace_seconds", "-1"),
    ("attribution.grace_seconds", "1e300"),
    ("s3cre", "1"),
    ("server.s3cre", "1"),
    ("PROJECTS", "[a]"),
    ("server.PORT", "1"),
    ("prometheus.7", "1"),
    ("7", "1"),
    ("_env_file", "x"),
    ("server", "s3cret"),
    ("pubsub", "[s3cret]"),
]


def with_key(key: str, text: str) -> str:
    tree = yaml.safe_load(EXAMPLE.replace("project_name", "# project_name"))
    *above, name = key.split(".")
    section = tree[above[0]] if above else tree
    section[int(name) if name.isdecimal() else name] = yaml.safe_load(text)
    return yaml.safe_dump(tree, allow_unicode=True)


@pytest.mark.parametrize(("key", "text"), WRONG)
def test_a_wrong_key_is_named_with_its_file_and_without_its_value(file: Write, key: str, text: str) -> None:
    path = file(with_key(key, text))

    (line,) = problems(path, {})

    assert line.startswith(f"{path}: {key}: ")
    assert "s3cret" not in line
    assert "\n" not in line


# Quotes, lists and booleans are YAML's; the environment has text.
YAML_ONLY: Final = re.compile(r"[\"'{\[7]|yes|on")
TEXTS: Final = [(key, text) for key, text in WRONG if key in OVERRIDES and not YAML_ONLY.match(text)]


@pytest.mark.parametrize(("key", "text"), TEXTS)
def test_a_wrong_variable_is_named_without_its_value(key: str, text: str) -> None:
    (line,) = problems(None, CALLER | {variable(key): text})

    assert line.startswith(f"{variable(key)}: {key}: ")
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        pytest.param("inventory.enabled", "maybe", "should be true or false", id="boolean"),
        pytest.param("server.port", "high", "should be a whole number", id="whole-number"),
        pytest.param("server.port", "80.5", "should be a whole number", id="fraction"),
        pytest.param("inventory.interval_seconds", "often", "should be a number", id="number"),
        pytest.param("server.host", "", "should not be empty", id="empty"),
        pytest.param("projects", '[""]', "should not be empty", id="empty-in-a-list"),
    ],
)
def test_a_value_of_another_kind_gets_a_plain_sentence(key: str, text: str, message: str) -> None:
    (line,) = problems(None, CALLER | {variable(key): text})

    assert line.endswith(f": {message}")


@pytest.mark.parametrize("name", ["SIE_SERVER__PORT", "SIE_PROMETHEUS__PORT", "SIE_INVENTORY__ENABLED"])
def test_an_empty_variable_is_a_value(name: str) -> None:
    (line,) = problems(None, CALLER | {name: ""})

    assert line.startswith(f"{name}: ")


def test_a_variable_does_not_hide_that_its_section_is_wrong(file: Write) -> None:
    path = file("server: 8080")

    assert problems(path, CALLER | {"SIE_SERVER__PORT": "81"}) == (
        f"{path}: server: should be a mapping of keys",
    )


def test_blanks_around_a_value_do_not_count() -> None:
    environ = {"SIE_STORE__URL": "redis://redis\n", "SIE_PROJECT_NAME": " a ", "SIE_PUBSUB__AUDIENCE": "b\n"}

    settings, _ = load_settings(None, CALLER | environ)

    assert (settings.store.url, settings.project_ids, settings.pubsub.audience) == (
        "redis://redis",
        ("a",),
        ("b",),
    )


def test_an_item_of_a_list_is_named_by_its_place(file: Write) -> None:
    (in_file,) = problems(file("projects: [a, '', b]"), CALLER)
    (in_environment,) = problems(None, CALLER | {"SIE_PROJECTS": '["a", 7]'})

    assert ": projects.1: " in in_file
    assert in_environment.startswith("SIE_PROJECTS: projects.1: ")


def test_every_wrong_key_has_its_line(file: Write) -> None:
    path = file("server: {port: a, host: 7}\nstore: {url: b}\nnope: 1\n")

    lines = problems(path, {"SIE_LOG_LEVEL": "c"})

    assert [line.split(": ")[:2] for line in lines if "oidc" not in line] == [
        ["SIE_LOG_LEVEL", "log_level"],
        [str(path), "server.host"],
        [str(path), "server.port"],
        [str(path), "store.url"],
        [str(path), "nope"],
    ]


def test_without_a_file_the_variables_that_oidc_needs_are_named() -> None:
    assert [line.split(": ")[0] for line in problems(None, {})] == list(CALLER)


def test_a_bad_store_url_appears_nowhere_in_the_error(file: Write) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file("store: {url: 'redis+x://:s3cret@host'}"), CALLER)

    assert "s3cret" not in str(caught.value) + str(caught.value.__cause__) + repr(caught.value.__cause__)


def test_a_good_store_url_does_not_show_in_the_settings() -> None:
    settings, _ = load_settings(None, CALLER | {"SIE_STORE__URL": "redis://:s3cret@host"})

    assert "s3cret" not in f"{settings!r} {settings}"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///relative.db",
        "sqlite:////var/lib/exporter/a file.db",
        "sqlite:///:memory:",
        "redis://redis",
        "redis://redis/?db=1",
        "redis://user:word%20@redis.example.com:6379/0?protocol=3",
        "rediss://[::1]:6379",
        "unix:///run/redis.sock?db=1",
        "unix://user:word@/run/redis.sock",
        "redis+sentinel://sentinel/service",
        "redis+sentinel://:word@sentinel-0:26379,sentinel-1,[::1]:26379/my-service?db=1",
        "rediss+sentinel://user:word@sentinel/service?ssl_ca_certs=/ca.pem",
    ],
)
def test_a_store_is_a_file_or_what_the_redis_client_reads(url: str) -> None:
    assert load_settings(None, CALLER | {"SIE_STORE__URL": url})[0].store.url == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("server: {port: s3cret", "is not YAML: line 1, column 22", id="unclosed"),
        pytest.param("a: b\nlog_level: s3cret: s3cret", "is not YAML: line 2, column 18", id="nested"),
        pytest.param("[s3cret]: 1", "is not YAML: line 1, column 1", id="list-as-key"),
        pytest.param("a: !s3cret b", "is not YAML: line 1, column 4", id="tag"),
        pytest.param("a: 2024-13-45", "is not YAML", id="impossible-date"),
        pytest.param("a: !!bool s3cret", "is not YAML", id="tagged-boolean"),
        pytest.param("a: !!timestamp s3cret", "is not YAML", id="tagged-date"),
        pytest.param('a: !!int ""', "is not YAML", id="tagged-number"),
        pytest.param("a: \x01s3cret", "is not YAML", id="control-character"),
        pytest.param("[" * 5000, "is not YAML", id="deep"),
        pytest.param("- s3cret", "should be a mapping of keys", id="list"),
        pytest.param("s3cret", "should be a mapping of keys", id="text"),
        pytest.param("false", "should be a mapping of keys", id="boolean"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_reported_by_place_and_not_by_content(
    file: Write, text: str, said: str
) -> None:
    path = file(text)

    assert problems(path, CALLER) == (f"{path}: {said}",)


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"log_level: \xff\xfe\xfd")

    assert problems(path, CALLER) == (f"{path}: is not YAML",)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    (line,) = problems(path, CALLER)

    assert line.startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize(
    ("option", "environ", "path"),
    [
        (None, {}, None),
        (None, {"CONFIG_PATH": ""}, None),
        (None, {"CONFIG_PATH": "a.yaml"}, Path("a.yaml")),
        (Path("b.yaml"), {"CONFIG_PATH": "a.yaml"}, Path("b.yaml")),
        (Path("b.yaml"), {}, Path("b.yaml")),
    ],
)
def test_the_option_beats_the_variable(
    option: Path | None, environ: dict[str, str], path: Path | None
) -> None:
    assert config_path(option, environ) == path


@pytest.mark.parametrize(
    "name",
    [
        "SIE_PORT",
        "SIE_SERVICE_HOST",
        "SIE_STORE_PORT",
        "SIE_PORT_8080_TCP_ADDR",
        "SIE_PUBSUB__FOO",
        "SIE_SERVER__PORT__X",
        "SIE_STORE",
        "SIE_log_level",
        "SIE_",
    ],
)
def test_an_unknown_variable_is_a_warning_that_names_it(name: str) -> None:
    (line,) = warnings({name: "tcp://s3cret"})

    assert line.startswith(f"{name}: unknown setting, ignored")
    assert "s3cret" not in line


def test_each_unknown_variable_has_its_warning() -> None:
    lines = warnings({"SIE_PORT": "", "SIE_A": "", "OTHER": "", "sie_b": ""})

    assert [line.partition(":")[0] for line in lines] == ["SIE_A", "SIE_PORT"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SIE_SERVER_PORT", " (did you mean SIE_SERVER__PORT?)"),
        ("SIE_log_level", " (did you mean SIE_LOG_LEVEL?)"),
        ("SIE_SERVICE_HOST", ""),
        ("SIE_SERVICE_PORT", ""),
        ("SIE_PORT_8080_TCP_ADDR", ""),
    ],
)
def test_a_variable_that_is_nearly_a_setting_gets_a_hint(name: str, hint: str) -> None:
    assert warnings({name: ""}) == (f"{name}: unknown setting, ignored{hint}",)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("pubsub.audiences", "unknown key (did you mean pubsub.audience?)"),
        ("log-level", "unknown key (did you mean log_level?)"),
        ("server.colour", "unknown key"),
    ],
)
def test_a_key_that_is_nearly_a_setting_gets_a_hint(file: Write, key: str, message: str) -> None:
    path = file(with_key(key, "1"))

    assert problems(path, {}) == (f"{path}: {key}: {message}",)


def test_a_key_that_is_written_with_its_dot_gets_the_section(file: Write) -> None:
    path = file("server.port: 1")

    assert problems(path, CALLER) == (f"{path}: server.port: unknown key (write `port` below `server`)",)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("projects: [shop-prod, '']", "projects.1", id="project"),
        pytest.param("server: {host: ''}", "server.host", id="host"),
        pytest.param("pubsub: {audience: [a, ' ']}", "pubsub.audience.1", id="audience"),
    ],
)
def test_an_empty_name_gets_a_plain_message(file: Write, text: str, key: str) -> None:
    path = file(text)
    environ = {name: value for name, value in CALLER.items() if "audience" not in key or "EMAIL" in name}

    assert problems(path, environ) == (f"{path}: {key}: should not be empty",)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SIE_PUBSUB__AUTHENTICATION": "none"}, "NOT AUTHENTICATED"),
        (
            {"SIE_PROMETHEUS__PORT": "8080"},
            "/metrics, / and /interruptions are as public as the main listener; set another port",
        ),
        ({"SIE_STORE__RETENTION_DAYS": "7"}, "store.retention_days is below 8"),
        ({"SIE_RECOVERY__INTERVAL_SECONDS": "2701"}, "recovery.interval_seconds and recovery.settle_seconds"),
        ({"SIE_RECOVERY__SETTLE_SECONDS": "2101"}, "recovery.interval_seconds and recovery.settle_seconds"),
    ],
)
def test_a_risky_setting_causes_a_warning(environ: dict[str, str], words: str) -> None:
    (line,) = warnings(environ)

    assert words in line


def test_eight_days_are_enough() -> None:
    assert warnings({"SIE_STORE__RETENTION_DAYS": "8"}) == ()


def test_settings_are_frozen() -> None:
    settings, _ = load_settings(None, CALLER)

    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]


def test_every_key_is_described_in_a_line() -> None:
    assert [key for key, _, said in describe() if not said or "\n" in said or "|" in said] == []


def test_defaults_are_described_as_they_are_written(file: Write) -> None:
    shown = flat(yaml.safe_load(EXAMPLE))

    described = {key: default for key, default, _ in describe() if key in shown and key not in NO_DEFAULT}

    assert described == {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in shown.items()
        if key not in NO_DEFAULT
    }
    assert {default for key, default, _ in describe() if key in NO_DEFAULT or key == "projects"} == {""}


_RETENTION: Final = ("store", "retention_days", "1")
_GRACE: Final = ("attribution", "grace_seconds", "86400")


@pytest.mark.parametrize(
    ("in_variables", "source"),
    [
        ([_GRACE, _RETENTION], "SIE_ATTRIBUTION__GRACE_SECONDS"),
        ([_GRACE], "SIE_ATTRIBUTION__GRACE_SECONDS"),
        ([_RETENTION], "SIE_STORE__RETENTION_DAYS"),
        ([], None),
    ],
)
def test_a_grace_as_long_as_the_retention_names_the_variable_that_sets_one_of_them(
    file: Write, in_variables: list[tuple[str, str, str]], source: str | None
) -> None:
    in_file = [pair for pair in (_GRACE, _RETENTION) if pair not in in_variables]
    path = file("\n".join(f"{section}: {{{key}: {text}}}" for section, key, text in in_file))
    environ = {variable(f"{section}.{key}"): text for section, key, text in in_variables}

    assert problems(path, CALLER | environ) == (
        f"{source or path}: attribution.grace_seconds: should be shorter than store.retention_days",
    )


def test_projects_in_the_file_and_a_project_name_in_a_variable_name_the_variable(file: Write) -> None:
    (line,) = problems(file("projects: [a]"), CALLER | {"SIE_PROJECT_NAME": "b"})

    assert line.startswith("SIE_PROJECT_NAME: projects: ")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param(
            "pubsub: {authentication: oidc}\nserver:\n  port: 1\npubsub: {authentication: none}\n",
            ["pubsub: key appears twice (lines 1 and 4); keep one"],
            id="section",
        ),
        pytest.param(
            "server:\n  port: 1\n  host: a\n  'port': 2\n",
            ["server.port: key appears twice (lines 2 and 4); keep one"],
            id="nested-and-quoted",
        ),
        pytest.param(
            "log_level: info\nlog_level: info\nlog_level: info\n",
            ["log_level: key appears 3 times (lines 1, 2 and 3); keep one"],
            id="three-times",
        ),
        pytest.param(
            "projects: [{a: 1, a: 2}]\nserver: {port: 1, port: 1}\n",
            [
                "server.port: key appears twice (lines 2 and 2); keep one",
                "projects.0.a: key appears twice (lines 1 and 1); keep one",
            ],
            id="in-a-list",
        ),
    ],
)
def test_a_key_that_appears_twice_is_an_error_with_both_lines(
    file: Write, text: str, lines: list[str]
) -> None:
    path = file(text)

    assert problems(path, CALLER) == tuple(f"{path}: {line}" for line in lines)


def test_a_merge_key_may_be_overridden_and_an_alias_repeated(file: Write) -> None:
    path = file(
        "pubsub: &caller {authentication: none, audience: a, clock_skew_seconds: 1}\n"
        "server: &server {port: 1, host: h}\n"
        "prometheus: {<<: {port: 2, path: /m}, port: 3}\n"
        "store: {url: &url 'redis://redis'}\n"
    )

    settings, _ = load_settings(path, {})

    assert (settings.prometheus.port, settings.prometheus.path) == (3, "/m")


def test_a_project_number_gets_the_same_message_with_and_without_quotes(file: Write) -> None:
    quoted = problems(file("project_name: '123456789'"), CALLER)
    unquoted = problems(file("project_name: 123456789"), CALLER)

    assert quoted == unquoted
    assert "id, not its number" in quoted[0]


# pull delivery


def test_pull_needs_no_audience_and_no_account(file: Write) -> None:
    settings, _ = load_settings(
        file(
            "project_name: shop-prod\npubsub: {delivery: pull, instance_creation_subscription_name: c,"
            " instance_interruption_subscription_name: projects/hub/subscriptions/i}"
        ),
        {},
    )

    assert settings.pulled_subscriptions == (
        "projects/shop-prod/subscriptions/c",
        "projects/hub/subscriptions/i",
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("pubsub: {delivery: pull}", "instance_creation_subscription_name", id="no-name"),
        pytest.param(
            "pubsub: {delivery: pull, instance_creation_subscription_name: c,"
            " instance_interruption_subscription_name: i}",
            "instance_creation_subscription_name",
            id="no-project",
        ),
        pytest.param(
            "projects: [a, b]\npubsub: {delivery: pull, instance_creation_subscription_name:"
            " projects/a/subscriptions/c, instance_interruption_subscription_name: i}",
            "instance_interruption_subscription_name",
            id="several-projects",
        ),
        pytest.param("pubsub: {delivery: fetch}", "delivery", id="another-way"),
    ],
)
def test_a_subscription_that_cannot_be_pulled_is_refused_by_its_key(file: Write, text: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(file(text), {})

    assert any(f"pubsub.{key}" in problem for problem in refused.value.problems)


def test_each_subscription_without_a_project_has_a_line(file: Write) -> None:
    text = (
        "projects: [a, b]\npubsub: {delivery: pull, instance_creation_subscription_name: c,"
        " instance_interruption_subscription_name: i}"
    )

    creation, interruption = problems(file(text), {})

    assert "pubsub.instance_creation_subscription_name: should be projects/" in creation
    assert "pubsub.instance_interruption_subscription_name: should be projects/" in interruption


# the URL of the store in a file


def test_the_url_of_the_store_can_be_in_a_file(file: Write, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("rediss://:word@redis:6379/1\n")

    settings, _ = load_settings(file("pubsub: {authentication: none}"), {"SIE_STORE__URL_FILE": str(secret)})

    assert settings.store.url == "rediss://:word@redis:6379/1"


@pytest.mark.parametrize(
    ("text", "store"),
    [
        pytest.param("redis://:word@redis", "{url_file: FILE, url: 'redis://other'}", id="both"),
        pytest.param(None, "{url_file: FILE}", id="no-file"),
        pytest.param("nonsense", "{url_file: FILE}", id="no-url"),
    ],
)
def test_a_url_file_that_cannot_be_read_is_named_by_its_key(
    file: Write, tmp_path: Path, text: str | None, store: str
) -> None:
    secret = tmp_path / "url"
    if text is not None:
        secret.write_text(text)

    with pytest.raises(ConfigurationError) as refused:
        load_settings(
            file(f"pubsub: {{authentication: none}}\nstore: {store.replace('FILE', str(secret))}"), {}
        )

    (problem,) = refused.value.problems
    assert ": store.url_file: " in problem
    assert "word" not in problem


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing", None, "No such file or directory"),
        ("", None, "Is a directory"),
        ("bytes", b"\xff\xfe", "it is not text"),
    ],
    ids=["missing", "folder", "bytes"],
)
def test_a_url_file_that_cannot_be_read_has_the_reason(
    file: Write, tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    secret = tmp_path / name
    if content is not None:
        secret.write_bytes(content)

    path = file("pubsub: {authentication: none}")
    (problem,) = problems(path, {**CALLER, "SIE_STORE__URL_FILE": str(secret)})

    assert problem == f"SIE_STORE__URL_FILE: store.url_file: names a file that cannot be read: {reason}"


@pytest.mark.parametrize("text", ["", "nonsense", "redis://:word@[::1", "sqlite:///a\nsqlite:///b"])
def test_a_url_file_from_a_variable_that_holds_no_url_is_named_by_the_variable(
    file: Write, tmp_path: Path, text: str
) -> None:
    secret = tmp_path / "url"
    secret.write_text(text)

    (problem,) = problems(
        file("pubsub: {authentication: none}"), {**CALLER, "SIE_STORE__URL_FILE": str(secret)}
    )

    assert problem.startswith(
        "SIE_STORE__URL_FILE: store.url_file: names a file whose content should be a URL"
    )
    assert "word" not in problem
