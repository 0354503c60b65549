"""The environment of the commands: no variable that a library reads prevents their start."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.compute_api import ComputeApi
from tests.support.entries import insert
from tests.support.process import LOOPBACK, free_port
from tests.support.program import (
    ExporterProcess,
    PushCredentials,
    configuration,
    issued_credentials,
    run,
    written,
)

NOWHERE = "/nowhere/hunter2"
NETWORKS = "10.0.0.0/8,fd00::/8"
REFUSING = f"http://{LOOPBACK}:1"
HARMLESS: tuple[Mapping[str, str], ...] = (
    {"NO_PROXY": NETWORKS, "no_proxy": NETWORKS, "HTTP_PROXY": REFUSING, "HTTPS_PROXY": REFUSING},
    {"NO_PROXY": "", "no_proxy": "", "http_proxy": REFUSING, "ALL_PROXY": "socks5://u:hunter2@p:1"},
    {"NO_PROXY": "", "no_proxy": "", "all_proxy": REFUSING, "https_proxy": "://hunter2"},
    {
        "PROMETHEUS_MULTIPROC_DIR": NOWHERE,
        "PROMETHEUS_DISABLE_CREATED_SERIES": "1",
        "PROMETHEUS_LEGACY_NAME_VALIDATION": "1",
        "SSLKEYLOGFILE": NOWHERE,
        "SSL_CERT_FILE": NOWHERE,
        "REQUESTS_CA_BUNDLE": NOWHERE,
        "CURL_CA_BUNDLE": NOWHERE,
        "GOOGLE_APPLICATION_CREDENTIALS": NOWHERE,
        "GOOGLE_API_USE_MTLS_ENDPOINT": "hunter2",
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "hunter2",
        "GCE_METADATA_TIMEOUT": "hunter2",
    },
    {
        "prometheus_multiproc_dir": NOWHERE,
        "SSL_CERT_DIR": NOWHERE,
        "TMPDIR": NOWHERE,
        "SQLITE_TMPDIR": NOWHERE,
        "WEB_CONCURRENCY": "hunter2",
        "FORWARDED_ALLOW_IPS": "hunter2/x",
        "NETRC": NOWHERE,
        "OPENSSL_CONF": NOWHERE,
        "PYTHONWARNINGS": "error",
        "TZ": "No/Where",
    },
)
IDS = ("proxies", "proxies-lower-case", "unusable-proxies", "google", "others")


@pytest.fixture(scope="module")
def credentials() -> Iterator[PushCredentials]:
    with issued_credentials() as credentials:
        yield credentials


@pytest.mark.parametrize("env", HARMLESS, ids=IDS)
def test_the_demo_is_right(env: Mapping[str, str]) -> None:
    done = run("demo", "--once", "--port", "0", env=env)

    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("env", HARMLESS, ids=IDS)
def test_check_reaches_a_local_endpoint(
    tmp_path: Path, credentials: PushCredentials, env: Mapping[str, str]
) -> None:
    done = run("check", "--config", written(tmp_path, configuration(tmp_path, credentials)), env=env)

    assert done.returncode == 0, done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("env", HARMLESS, ids=IDS)
def test_the_exporter_starts_and_authenticates(
    tmp_path: Path, credentials: PushCredentials, env: Mapping[str, str]
) -> None:
    with ExporterProcess(tmp_path, credentials, env=env) as exporter:
        assert exporter.outcome(insert()) == "tracked"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", NOWHERE),
        ("SSL_CERT_DIR", NOWHERE),
        ("HTTPS_PROXY", "socks5://u:hunter2@p:1"),
        ("all_proxy", "http://u:hunter2@p:x"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check"])
def test_the_needs_of_a_remote_endpoint_are_named_in_one_line(
    tmp_path: Path, credentials: PushCredentials, command: str, name: str, value: str
) -> None:
    configured = configuration(tmp_path, credentials, pubsub={"certs_url": "https://certs.invalid/"})

    done = run(command, "--config", written(tmp_path, configured), env={"SSL_CERT_FILE": "", name: value})

    said = done.stderr if command == "serve" else done.stdout
    [line] = [line for line in said.splitlines() if name in line]
    assert done.returncode == 1
    assert line.startswith(
        f"spot-interruption-exporter: {name}: " if command == "serve" else f"FAIL  certificates: {name}: "
    )
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_API_USE_MTLS_ENDPOINT", "hunter2"),
        ("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "hunter2"),
        ("GOOGLE_SDK_PYTHON_LOGGING_SCOPE", "google"),
        ("GOOGLE_CLOUD_UNIVERSE_DOMAIN", ""),
    ],
)
def test_a_listing_does_not_depend_on_a_variable_without_a_use(tmp_path: Path, name: str, value: str) -> None:
    with ComputeApi() as api:
        configured = configuration(tmp_path, None) | {
            "project_name": "shop-prod",
            "inventory": {"endpoint": api.url},
        }
        api.projects["shop-prod"] = []

        done = run("check", "--config", written(tmp_path, configured), env={name: value})

    [line] = [line for line in done.stdout.splitlines() if "fleet of project" in line]
    assert line.startswith("ok ")
    assert done.returncode == 0
    assert done.stderr == ""


# pull delivery, whose client reads the variables in the exporter's own process

PULL = {"delivery": "pull"} | {
    f"instance_{kind}_subscription_name": f"projects/shop-prod/subscriptions/{kind}"
    for kind in ("creation", "interruption")
}


@pytest.mark.parametrize(
    "env",
    [
        *HARMLESS,
        {"GOOGLE_CLOUD_UNIVERSE_DOMAIN": "", "GOOGLE_SDK_PYTHON_LOGGING_SCOPE": "google"},
        {"GOOGLE_CLOUD_UNIVERSE_DOMAIN": "hunter2.example"},
    ],
    ids=[*IDS, "empty-universe", "another-universe"],
)
def test_the_exporter_starts_to_pull_from_an_emulator(tmp_path: Path, env: Mapping[str, str]) -> None:
    configured = configuration(tmp_path, None, pubsub=PULL)
    nobody = {"PUBSUB_EMULATOR_HOST": f"{LOOPBACK}:{free_port()}"}

    with ExporterProcess(tmp_path, configured=configured, env={**env, **nobody}) as exporter:
        assert exporter.status("/healthz") == 200
        lines = exporter.logs()

    assert "hunter2" not in str(lines)
    assert [line["message"] for line in lines if line["severity"] == "ERROR"] == []


@pytest.mark.parametrize("credentials", ["missing", "folder", "text", "bytes", "other"])
@pytest.mark.parametrize("command", ["serve", "check"])
def test_unusable_credentials_for_pulling_are_named_in_one_line(
    tmp_path: Path, command: str, credentials: str
) -> None:
    named = tmp_path / "hunter2"
    if credentials == "folder":
        named.mkdir()
    elif credentials != "missing":
        named.write_bytes({"text": b"hunter2", "bytes": b"\xff\xfe\x80", "other": b"{}"}[credentials])
    configured = configuration(tmp_path, None, pubsub=PULL)
    env = {"PUBSUB_EMULATOR_HOST": "", "GOOGLE_APPLICATION_CREDENTIALS": str(named)}

    done = run(command, "--config", written(tmp_path, configured), env=env)

    said = done.stderr if command == "serve" else done.stdout
    [line] = [line for line in said.splitlines() if "GOOGLE_APPLICATION_CREDENTIALS" in line]
    assert done.returncode == 1
    assert "pubsub.delivery pull needs credentials" in line
    assert str(named) not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
