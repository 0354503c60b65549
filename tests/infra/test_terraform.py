"""The configuration that Terraform writes is accepted by the exporter.

Where Terraform or its provider is missing these tests are skipped, in CI too: Debian has no package of
either. The workflows of the project's home run them all.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest
import yaml

from app.domain.events import Ignored
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import PushMessage
from app.metrics import ENDPOINTS
from app.settings import Settings, load_settings
from tests.infra.log_filter import Filter, compiled
from tests.support.docs import rows
from tests.support.entries import (
    JsonObject,
    changed,
    deletion,
    encoded,
    insert,
    legacy,
    preempted,
    system_event,
)

ROOT: Final = Path(__file__).parents[2]
GCP: Final = ROOT / "infra" / "gcp"
TEMPLATE: Final = GCP / "templates" / "exporter-config.yaml.tftpl"


def found_terraform() -> str:
    """Terraform's path; where it is missing, the test is skipped."""
    found = shutil.which("terraform")
    if found is None:
        pytest.skip("needs terraform, which is not here")
    return found


def run(*arguments: str, within: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run Terraform without prompts and without its check for a newer version, and return its output."""
    quiet = {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
    return subprocess.run(
        [found_terraform(), *arguments],
        cwd=within,
        input=stdin,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )


# The provider is large: to be fetched, and to be started for each run.
slow: Final = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the configuration with its provider installed; skips where there is none to be had."""
    folder = tmp_path_factory.mktemp("terraform") / "gcp"
    shutil.copytree(GCP, folder, ignore=shutil.ignore_patterns(".*", "*.tfstate*", "*.tfvars*", "backend.tf"))
    done = run("init", "-no-color", within=folder)
    if re.search(r"Failed to (query available provider packages|install provider)", done.stderr):
        pytest.skip("needs Terraform's google provider, which cannot be had here")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_configuration_is_formatted() -> None:
    done = run("fmt", "-check", "-recursive", within=GCP)

    assert (done.returncode, done.stdout) == (0, "")


@slow
def test_the_configuration_is_valid(initialised: Path) -> None:
    done = run("validate", "-no-color", within=initialised)

    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def tested(initialised: Path) -> str:
    """Return the output of `terraform test`, with the values of the outputs."""
    version = json.loads(run("version", "-json", within=initialised).stdout)["terraform_version"]
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (1, 7):
        pytest.skip(f"needs Terraform 1.7 or later to mock the provider, and this is {version}")
    done = run("test", "-verbose", "-no-color", within=initialised)
    failures = re.findall(r"^.*\.\.\. fail$", done.stdout, re.MULTILINE)
    assert (done.returncode, failures) == (0, []), done.stderr
    return done.stdout


@slow
def test_its_own_tests_pass(tested: str) -> None:
    assert re.search(r"^Success! \d\d+ passed, 0 failed\.$", tested, re.MULTILINE)


@slow
def test_every_output_for_the_exporter_is_a_configuration_that_it_takes(tested: str, tmp_path: Path) -> None:
    rendered = set(re.findall(r"^exporter_config += <<-EOT\n(.*?)^EOT$", tested, re.MULTILINE | re.DOTALL))

    assert len(rendered) > 3
    for text in rendered:
        settings_of(dedent(text), tmp_path)


def settings_of(text: str, folder: Path) -> Settings:
    """The settings that the exporter reads from a file with this text, and no environment."""
    path = folder / "config.yaml"
    path.write_text(text)
    settings, _ = load_settings(path, {})
    return settings


def rendered(**values: object) -> str:
    """The exporter's configuration as the template makes it; this needs no provider."""
    given = {
        "projects": ["example-project"],
        "creation_subscription": "sie-creation-subscription",
        "interruption_subscription": "sie-interruption-subscription",
        "audience": "https://sie.example.com",
        "service_account_email": "sie-push@example-project.iam.gserviceaccount.com",
        "store_url": "",
    } | values
    expression = f"jsonencode(templatefile({json.dumps(str(TEMPLATE))}, {json.dumps(given)}))"
    done = run("console", within=TEMPLATE.parent, stdin=expression)
    assert done.returncode == 0, done.stderr
    text = json.loads(json.loads(done.stdout))
    assert isinstance(text, str)
    return text


def test_the_exporter_reads_what_terraform_writes(tmp_path: Path) -> None:
    settings = settings_of(rendered(), tmp_path)

    assert settings.project_ids == ("example-project",)
    assert settings.pubsub.instance_creation_subscription_name == "sie-creation-subscription"
    assert settings.pubsub.instance_interruption_subscription_name == "sie-interruption-subscription"
    assert settings.pubsub.audience == ("https://sie.example.com",)
    assert settings.pubsub.service_account_email == ("sie-push@example-project.iam.gserviceaccount.com",)
    assert settings.store.url.startswith("sqlite:")


def test_the_exporter_reads_several_projects_and_a_shared_store(tmp_path: Path) -> None:
    url = "rediss://10.0.0.2:6379/0?ssl_ca_certs=/etc/spot-interruption-exporter/valkey-ca.pem"

    settings = settings_of(rendered(projects=["shop-project", "till-project"], store_url=url), tmp_path)

    assert settings.project_ids == ("shop-project", "till-project")
    assert settings.store.url == url


def test_an_audience_like_a_number_stays_text(tmp_path: Path) -> None:
    assert settings_of(rendered(audience="12345"), tmp_path).pubsub.audience == ("12345",)


def streams() -> Mapping[str, tuple[str, str]]:
    """Each stream's path and its sink's filter."""
    text = (GCP / "main.tf").read_text()
    found = re.findall(
        r'^    (\w+) = \{\n      path += "([^"]+)"\n      filter = <<-EOT\n(.*?)^ +EOT$',
        text,
        re.MULTILINE | re.DOTALL,
    )
    return {name: (path, query) for name, path, query in found}


def test_each_endpoint_has_a_stream_to_its_path() -> None:
    assert {name: path for name, (path, _) in streams().items()} == {
        endpoint: f"/events/{endpoint}" for endpoint in ENDPOINTS
    }


@pytest.fixture(scope="module")
def filters() -> Mapping[str, Filter]:
    return {name: compiled(query) for name, (_, query) in streams().items()}


_UNLABELLED: Final = insert(cluster=None, labels={"team": "tills"}, spot=False)
_OLD_NODE: Final = insert(cluster=None, labels={"goog-gke-node": ""}, spot=False)
_PREEMPTIBLE: Final = changed(insert(cluster=None), "protoPayload.request.scheduling", {"preemptible": True})
_DELETION_BEGINS: Final = changed(deletion(), "operation", {"id": "operation-1", "first": True})
_OTHER_METHOD: Final = changed(insert(), "protoPayload.methodName", "v1.compute.instances.setLabels")
_LIKE_INSERT: Final = changed(insert(), "protoPayload.methodName", "v1.compute.instances.insertion")
_IN_BULK: Final = changed(insert(), "protoPayload.methodName", "v1.compute.instances.bulkInsert")
_ELSEWHERE: Final = changed(
    insert(), "logName", "projects/shop-prod/logs/cloudaudit.googleapis.com%2Fdata_access"
)


@pytest.mark.parametrize(
    ("entry", "stream"),
    [
        pytest.param(insert(), "creation", id="node"),
        pytest.param(insert(spot=False), "creation", id="node-that-is-not-spot"),
        pytest.param(insert(version="beta", project_number=None), "creation", id="beta"),
        pytest.param(insert(version="alpha"), "creation", id="alpha"),
        pytest.param(
            changed(insert(), "protoPayload.methodName", "compute.instances.insert"),
            "creation",
            id="no-version",
        ),
        pytest.param(insert(last=True, failed=True), "creation", id="failed"),
        pytest.param(
            changed(insert(last=True, failed=True), "severity", "ALERT"), "creation", id="failed-badly"
        ),
        pytest.param(insert(last=True), None, id="succeeded"),
        pytest.param(insert(denied=True), None, id="denied"),
        pytest.param(insert(cluster=None), "creation", id="spot-vm"),
        pytest.param(_PREEMPTIBLE, "creation", id="preemptible-vm"),
        pytest.param(_UNLABELLED, None, id="no-node"),
        pytest.param(insert(cluster=None, spot=False), None, id="no-labels"),
        pytest.param(_OLD_NODE, None, id="node-without-its-clusters-name"),
        pytest.param(deletion(), "creation", id="deleted"),
        pytest.param(deletion(version="beta"), "creation", id="deleted-in-beta"),
        pytest.param(_DELETION_BEGINS, None, id="first-entry-of-a-deletion"),
        pytest.param(_OTHER_METHOD, None, id="another-method"),
        pytest.param(_LIKE_INSERT, None, id="a-method-that-begins-so"),
        pytest.param(_IN_BULK, None, id="a-method-that-ends-so"),
        pytest.param(_ELSEWHERE, None, id="another-log"),
        pytest.param(preempted(), "interruption", id="preempted"),
        pytest.param(system_event(), None, id="host-error"),
        pytest.param(system_event("compute.instances.automaticRestart"), None, id="restart"),
        pytest.param(legacy(), None, id="before-audit-logs"),
    ],
)
def test_an_entry_goes_to_its_stream_and_to_no_other(
    entry: JsonObject, stream: str | None, filters: Mapping[str, Filter]
) -> None:
    assert [name for name, lets_through in filters.items() if lets_through(entry)] == (
        [stream] if stream else []
    )


@pytest.mark.parametrize(
    "entry",
    [
        insert(),
        insert(version="beta"),
        insert(last=True, failed=True),
        insert(cluster=None),
        deletion(),
        preempted(),
    ],
)
def test_what_a_filter_lets_through_is_an_event_to_the_exporter(
    entry: JsonObject, filters: Mapping[str, Filter]
) -> None:
    assert any(lets_through(entry) for lets_through in filters.values())
    assert not isinstance(decode_entry(encoded(entry), PushMessage(b""), 0), Ignored)


def test_nothing_that_the_filters_keep_out_would_have_been_counted() -> None:
    kept_out = [
        insert(last=True),
        insert(denied=True),
        _OLD_NODE,
        _DELETION_BEGINS,
        _OTHER_METHOD,
        system_event(),
        legacy(),
    ]

    assert all(isinstance(decode_entry(encoded(entry), PushMessage(b""), 0), Ignored) for entry in kept_out)


def test_the_message_that_verifies_is_taken_and_counts_nothing() -> None:
    found = re.search(r"--message='(.*?)'", (GCP / "outputs.tf").read_text())
    assert found is not None
    message = found[1].replace(r"\"", '"')

    assert isinstance(decode_entry(message.encode(), PushMessage(b""), 0), Ignored)


def variables() -> list[tuple[str, str, str]]:
    """Name, default and description of each of the root module's variables, in their order."""
    text = (GCP / "variables.tf").read_text()
    blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}$', text, re.MULTILINE | re.DOTALL)
    return [(name, _argument(body, "default"), _argument(body, "description")) for name, body in blocks]


def _argument(body: str, name: str) -> str:
    found = re.search(rf'^  {name} += "?(.*?)"?$', body, re.MULTILINE)
    return found[1] if found else "required"


def test_every_variable_is_in_the_table_with_its_default_and_meaning() -> None:
    defaults = {"null": "", "[]": "", "{}": "", "": "", "required": "required"}

    assert rows("terraform variables") == [
        [f"`{name}`", defaults.get(default, f"`{default}`"), meaning]
        for name, default, meaning in variables()
    ]


def test_every_variable_has_a_type_and_all_but_switches_are_validated() -> None:
    text = (GCP / "variables.tf").read_text()
    for name, body in re.findall(r'^variable "(\w+)" \{\n(.*?)^\}$', text, re.MULTILINE | re.DOTALL):
        assert re.search(r"^  type += ", body, re.MULTILINE), name
        assert "  type        = bool" in body or "  validation {" in body, name


@pytest.mark.parametrize(
    ("variable", "manifest"),
    [("kubernetes_namespace", "namespace.yaml"), ("kubernetes_service_account", "service-account.yaml")],
)
def test_the_account_is_bound_to_the_manifests_names(variable: str, manifest: str) -> None:
    named = yaml.safe_load((ROOT / "k8s" / "base" / manifest).read_text())["metadata"]["name"]

    assert {name: default for name, default, _ in variables()}[variable] == named
