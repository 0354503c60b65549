"""The Terraform configuration is valid, its tests pass, and the exporter accepts what it writes.

The provider is the real one if `TERRAFORM_MIRROR` names a filesystem mirror that has it, and otherwise a
stand-in with the schemas that the configuration uses. Without Terraform these tests are skipped, in CI too,
because Debian has no package of it.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import pytest
import yaml

from app.domain.events import Ignored
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import PushMessage
from app.metrics import ENDPOINTS
from app.settings import Settings, load_settings
from tests.infra.log_filter import Filter, compiled
from tests.infra.provider import MIRROR, initialise, real_mirror, run, schemas
from tests.infra.stand_in.encoding import type_of
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
EXAMPLES: Final = sorted(path.parent.name for path in GCP.glob("examples/*/main.tf"))
TEMPLATE: Final = GCP / "templates" / "exporter-config.yaml.tftpl"


# Terraform starts the provider for each run.
slow: Final = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the configuration, with the provider installed."""
    scratch = tmp_path_factory.mktemp("terraform")
    folder = scratch / "gcp"
    shutil.copytree(GCP, folder, ignore=shutil.ignore_patterns(".*", "*.tfstate*", "*.tfvars*", "backend.tf"))
    initialise(folder, scratch)
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


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_valid(example: str, initialised: Path, tmp_path: Path) -> None:
    # Terraform installs a module's provider in the folder of the configuration that uses it.
    copied = shutil.copytree(initialised, tmp_path / "gcp")
    folder = copied / "examples" / example
    initialise(folder, tmp_path)

    done = run("validate", "-no-color", within=folder)

    assert done.returncode == 0, done.stderr


def test_only_the_examples_configure_a_provider() -> None:
    configured = [
        path for path in GCP.rglob("*.tf") if re.search(r'^provider "', path.read_text(), re.MULTILINE)
    ]

    assert sorted(path.parent for path in configured) == [GCP / "examples" / name for name in EXAMPLES]


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
        "delivery": "push",
        "audience": "https://sie.example.com",
        "service_account_email": "sie-push@example-project.iam.gserviceaccount.com",
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


def test_the_exporter_reads_several_projects(tmp_path: Path) -> None:
    settings = settings_of(rendered(projects=["shop-project", "till-project"]), tmp_path)

    assert settings.project_ids == ("shop-project", "till-project")


def test_the_exporter_pulls_from_the_project_of_the_subscriptions(tmp_path: Path) -> None:
    names = {
        f"{stream}_subscription": f"projects/tools-project/subscriptions/sie-{stream}-subscription"
        for stream in ENDPOINTS
    }
    # Terraform has neither an audience nor an account then.
    absent = {"audience": None, "service_account_email": None}

    settings = settings_of(rendered(delivery="pull", projects=["shop-project"], **names, **absent), tmp_path)

    assert settings.pubsub.delivery == "pull"
    assert settings.pulled_subscriptions == tuple(names[f"{stream}_subscription"] for stream in ENDPOINTS)


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
def test_an_entry_that_a_filter_lets_through_is_an_event(
    entry: JsonObject, filters: Mapping[str, Filter]
) -> None:
    assert any(lets_through(entry) for lets_through in filters.values())
    assert not isinstance(decode_entry(encoded(entry), PushMessage(b""), 0), Ignored)


def test_the_filters_keep_out_no_entry_that_would_be_counted() -> None:
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


# The least role that can create each type.
_ROLES: Final = {
    "google_kms_crypto_key_iam_member": "cloudkms.admin",
    "google_logging_folder_sink": "logging.configWriter",
    "google_logging_organization_sink": "logging.configWriter",
    "google_logging_project_sink": "logging.configWriter",
    "google_memorystore_instance": "memorystore.admin",
    "google_monitoring_alert_policy": "monitoring.alertPolicyEditor",
    "google_network_connectivity_service_connection_policy": "networkconnectivity.consumerNetworkAdmin",
    "google_project_iam_custom_role": "iam.roleAdmin",
    "google_project_iam_member": "resourcemanager.projectIamAdmin",
    "google_project_service": "serviceusage.serviceUsageAdmin",
    "google_pubsub_subscription": "pubsub.admin",
    "google_pubsub_subscription_iam_member": "pubsub.admin",
    "google_pubsub_topic": "pubsub.admin",
    "google_pubsub_topic_iam_member": "pubsub.admin",
    "google_service_account": "iam.serviceAccountAdmin",
    "google_service_account_iam_member": "iam.serviceAccountAdmin",
}


def test_the_roles_that_terraform_needs_are_listed() -> None:
    text = "".join(path.read_text() for path in GCP.rglob("*.tf"))
    created = set(re.findall(r'^resource "(\w+)"', text, re.MULTILINE))
    page = (ROOT / "docs/deploy.md").read_text()
    listed = set(
        re.findall(r"`roles/([\w.]+)`", "".join(re.findall(r"^\| (?:Terraform|…).*", page, re.MULTILINE)))
    )

    assert created == _ROLES.keys()
    # Terraform also sets the account that a subscription pushes as.
    assert listed == {*_ROLES.values(), "iam.serviceAccountUser"}


def test_the_stand_in_agrees_with_the_real_provider(initialised: Path) -> None:
    if not real_mirror():
        pytest.skip(f"needs a mirror with the real provider, which {MIRROR} does not name")
    printed = json.loads(run("providers", "schema", "-json", within=initialised).stdout)
    [real] = printed["provider_schemas"].values()
    ours = schemas()

    kinds = {"resources": "resource_schemas", "data": "data_source_schemas"}
    assert [
        problem
        for kind, theirs in kinds.items()
        for name, body in ours[kind].items()
        for problem in disagreements(name, body, real[theirs][name]["block"])
    ] == []


def disagreements(name: str, ours: Mapping[str, Any], real: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields of a block that the real provider does not have, or has with another type or mode."""
    for field, given in ours.items():
        place = f"{name}.{field}"
        if field == "block":
            continue
        if isinstance(given, str):
            found = real.get("attributes", {}).get(field)
            kind, *modes = given.split()
            if found is None or not contains(found["type"], type_of(kind)):
                yield f"{place} is not {kind}"
            elif {mode for mode in ("required", "optional", "computed") if found.get(mode)} != set(modes):
                yield f"{place} is not {modes}"
            continue
        block = real.get("block_types", {}).get(field)
        least, most = (0, 0) if block is None else (block.get("min_items", 0), block.get("max_items", ""))
        if block is None or given["block"] != f"{block['nesting_mode']} {least}..{most}":
            yield f"{place} is not {given['block']}"
        else:
            yield from disagreements(place, given, block["block"])


def contains(real: Any, ours: Any) -> bool:  # noqa: ANN401  # JSON
    """Return True if a type is the real one, with some of the fields of its objects."""
    if isinstance(real, str) or isinstance(ours, str):
        return bool(real == ours)
    if real[0] != ours[0]:
        return False
    if real[0] != "object":
        return contains(real[1], ours[1])
    return all(name in real[1] and contains(real[1][name], kind) for name, kind in ours[1].items())
