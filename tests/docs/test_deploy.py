"""The numbered paths of docs/deploy.md lead to manifests that are ready to be applied."""

import re
import shutil
import stat
from base64 import b64decode
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from app import VERSION
from tests.docs.checkout import copied, shell
from tests.infra.provider import initialise, terraform
from tests.infra.provider import run as run_terraform
from tests.k8s.checks import problems
from tests.k8s.rendered import (
    APPLICATION,
    BASE,
    GKE,
    K8S,
    OVERLAYS,
    PULL,
    PUSHED,
    REPLICAS,
    STORE_SECRET,
    URL_FILE,
    Manifests,
    render,
)
from tests.k8s.schemas import violations
from tests.support.docs import DOCS, PAGES, ROOT, blocks
from tests.support.requirement import require

DEPLOY: Final = DOCS / "deploy.md"
ACCOUNT: Final = "till-exporter@till-project.iam.gserviceaccount.com"
# Terraform's outputs of another installation than the example's.
PUSHING: Final = """\
project_name: till-project
pubsub:
  instance_creation_subscription_name: till-creation-subscription
  instance_interruption_subscription_name: till-interruption-subscription
  audience: "https://push.example.net"
  service_account_email: till-push@till-project.iam.gserviceaccount.com
"""
PULLING: Final = """\
project_name: till-project
pubsub:
  delivery: pull
  instance_creation_subscription_name: projects/till-project/subscriptions/till-creation-subscription
  instance_interruption_subscription_name: projects/till-project/subscriptions/till-interruption-subscription
"""
OUTPUTS: Final = {
    "exporter_service_account_email": ACCOUNT,
    "valkey_url": "rediss://10.0.0.2:6379/0?ssl_ca_certs=/etc/spot-interruption-exporter-store/valkey-ca.pem",
    "valkey_ca_certificates": "authorities",
}
SITE: Final = "export PROJECT=till-project REGION=europe-west4 HOST=push.example.net\n"


def code(mark: str) -> list[str]:
    return [block.code for block in blocks(DEPLOY, "sh") if block.mark == mark]


STEPS: Final = {
    found[1]: step
    for step in code("overlay")
    if (found := re.match(r"cp -r k8s/(overlays/\S+) ", step)) is not None
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout, with Terraform's outputs on PATH."""
    require("kubectl", shutil.which("kubectl"))
    folder = copied(tmp_path)
    fake = folder / "bin" / "terraform"
    fake.parent.mkdir()
    given = OUTPUTS | {"exporter_config": PUSHING}
    cases = "\n".join(f"*' -raw {name}') printf %s '{value}' ;;" for name, value in given.items())
    fake.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\n*) exit 1 ;;\nesac\n')
    fake.chmod(stat.S_IRWXU)
    return folder


def execute(step: str, checkout: Path) -> str:
    """Run the variables and a step with Terraform's outputs; return what it prints."""
    [variables] = code("variables")
    image = re.findall(r"^export IMAGE=.*$", variables, re.MULTILINE)
    done = shell("\n".join([variables, SITE, *image, 'PATH="$PWD/bin:$PATH"', step]), checkout)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def follow(overlay: str, checkout: Path) -> Path:
    """Run the overlay's step; return the folder of the new overlay."""
    if overlay == PULL:
        fake = checkout / "bin" / "terraform"
        fake.write_text(fake.read_text().replace(PUSHING, PULLING))
    execute(STEPS[overlay], checkout)
    return checkout / "k8s/overlays/site"


def test_there_is_a_path_for_every_overlay() -> None:
    assert STEPS.keys() == set(OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_path_leads_to_an_overlay_with_the_values_of_the_site(overlay: str, checkout: Path) -> None:
    site = follow(overlay, checkout)

    built = render(site)
    assert problems(built) == []
    settings, warnings = built.settings()
    assert warnings == ()
    assert settings.project_ids == ("till-project",)
    assert settings.pubsub.audience == (("https://push.example.net",) if overlay in PUSHED else ())
    hosts = [rule["host"] for one in built.all("Ingress") for rule in one["spec"]["rules"]]
    assert hosts == (["push.example.net"] if overlay in PUSHED else [])
    assert built.one("ServiceAccount")["metadata"]["annotations"] == {
        "iam.gke.io/gcp-service-account": ACCOUNT
    }
    assert built.container["image"].startswith("europe-west4-docker.pkg.dev/till-project/sie/")
    # No example value is left, except in the second part of the configuration.
    assert "example-project" not in yaml.safe_dump_all(built.objects)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("by", ["address-and-tag", "relative-path"])
def test_a_copy_outside_of_the_checkout_builds_the_same(overlay: str, by: str, checkout: Path) -> None:
    site = follow(overlay, checkout)
    [outside] = code("overlay outside")
    [address] = re.findall(r"https://\S+?(?=//k8s)", outside)
    if by == "address-and-tag":
        require("git", shutil.which("git"))
        committed = shell(
            "git init -q && git add k8s && git -c user.name=t -c user.email=t@example.com commit -q -m t"
            f" && git tag v{VERSION}",
            checkout,
        )
        assert committed.returncode == 0, committed.stderr
        outside = outside.replace(address, f"file://{checkout}")
    else:
        outside = outside.replace(f"{address}//", "../spot-interruption-exporter/").replace(
            f"?ref=v{VERSION}", ""
        )

    done = shell(outside, checkout)

    assert done.returncode == 0, done.stderr
    printed = Manifests(list(yaml.safe_load_all(done.stdout)))
    assert printed.objects == render(site).objects


def test_the_address_of_the_base_is_that_of_the_documentation() -> None:
    [outside] = code("overlay outside")
    terraform = (ROOT / "infra/gcp/README.md").read_text()
    [address] = re.findall(r"(https://\S+?)//k8s", outside)

    assert re.findall(r'"git::(\S+)\.git//infra/gcp\?ref=', terraform) == [address]


def test_the_pod_that_restores_has_the_volume_and_the_user_of_the_exporter() -> None:
    pod = yaml.safe_load((K8S / "restore/pod.yaml").read_text())
    exporter = render(BASE)
    [claim] = exporter.workload["volumeClaimTemplates"]
    [volume] = [one for one in pod["spec"]["volumes"] if "persistentVolumeClaim" in one]
    [container] = pod["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}

    assert violations(pod) == []
    assert pod["metadata"]["namespace"] == exporter.one("StatefulSet")["metadata"]["namespace"]
    assert volume["persistentVolumeClaim"]["claimName"] == (
        f"{claim['metadata']['name']}-{exporter.one('StatefulSet')['metadata']['name']}-0"
    )
    for key, value in exporter.pod["securityContext"].items():
        assert key == "fsGroupChangePolicy" or pod["spec"]["securityContext"][key] == value
    assert container["securityContext"] == exporter.container["securityContext"]
    [mounted] = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume["name"]]
    assert mounted == exporter.mounts["data"]
    settings, _ = exporter.settings()
    assert environment["SIE_STORE__URL"] == settings.store.url
    # The pods of the exporter get pushes by this label.
    assert "labels" not in pod["metadata"]


def declared(kind: str, file: str) -> set[str]:
    """Return the names of Terraform's variables or outputs."""
    return set(re.findall(rf'^{kind} "(\w+)"', (ROOT / "infra/gcp" / file).read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_an_output_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"output -raw (\w+)|module\.spot_interruption_exporter\.(\w+)", text)

    assert {first or second for first, second in named} <= declared("output", "outputs.tf")


def test_the_hcl_of_the_pages_is_formatted_and_sets_variables_that_exist() -> None:
    found = [block.code for page in PAGES for block in blocks(page, "hcl")]
    inside = "\n".join(re.findall(r"^module .*?\{\n(.*?)^\}", "\n".join(found), re.MULTILINE | re.DOTALL))
    variables = {
        name
        for code in (inside, *(code for code in found if "module " not in code))
        for name in re.findall(r"^(?:  )?(\w+) +=", code, re.MULTILINE)
    } - {"source", "for_each"}
    attributes = {"region", "network", "subnetworks"}

    assert len(found) >= 3
    assert variables - attributes <= declared("variable", "variables.tf")
    for code in found:
        done = run_terraform("fmt", "-check", "-", within=ROOT, stdin=code)
        assert done.returncode == 0, code


def example_of(overlay: str) -> str:
    """Return the name of the Terraform example that belongs to an overlay."""
    return {PULL: "pull", REPLICAS: "replicas"}.get(overlay, "push")


def terraform_steps() -> list[tuple[str, str]]:
    """Return each path's overlay with its step that copies Terraform's example."""
    marks = [block for block in blocks(DEPLOY, "sh") if block.mark in ("terraform", "overlay")]
    steps = [
        (overlay, first.code)
        for first, second in zip(marks[::2], marks[1::2], strict=True)
        for overlay, step in STEPS.items()
        if step == second.code
    ]
    assert [overlay for overlay, _ in steps] == list(STEPS)
    return steps


@pytest.mark.parametrize(("overlay", "step"), terraform_steps(), ids=list(STEPS))
def test_a_path_leads_to_a_valid_terraform_configuration(
    overlay: str, step: str, checkout: Path, tmp_path: Path
) -> None:
    terraform()
    execute(step, checkout)
    site = checkout / "infra/site"
    initialise(site, tmp_path)

    done = run_terraform("validate", "-no-color", within=site)
    assert done.returncode == 0, done.stderr
    text = (site / "main.tf").read_text()
    assert f"examples/{example_of(overlay)} " in step
    assert "example-project" not in text
    assert re.findall(r'^  project_id +=.*"(.+)"$', text, re.MULTILINE) == ["till-project"]
    pushed = ["https://push.example.net"] if overlay in PUSHED else []
    assert re.findall(r'^  push_endpoint += "(.+)"$', text, re.MULTILINE) == pushed
    assert ("europe-west4" in text) == (overlay == REPLICAS)


def test_the_secret_of_the_store_has_the_files_that_the_pods_and_the_url_name(checkout: Path) -> None:
    steps = code("needs a cloud") + code("API server")
    created = [step for step in steps if "create secret generic" in step and STORE_SECRET in step]
    for step in created:
        _, _, create = step.partition("k8s/base/namespace.yaml\n")
        secret = yaml.safe_load(execute(create.replace(" | kubectl apply -f -", ""), checkout))
        replicas = render(REPLICAS)
        [volume] = [one for one in replicas.pod["volumes"] if "secret" in one]
        files = {f"{replicas.mounts[volume['name']]}/{key}" for key in secret["data"]}

        assert secret["metadata"]["name"] == volume["secret"]["secretName"]
        assert secret["metadata"]["namespace"] == APPLICATION
        url = b64decode(secret["data"]["url"]).decode()
        assert {replicas.environment[URL_FILE], *re.findall(r"ssl_ca_certs=([^&]+)", url)} == files
    assert len(created) == 2


def documented(mark: str) -> dict[str, Any]:
    """Return the YAML of the marked block of the Kubernetes reference."""
    [block] = [one for one in blocks(K8S / "README.md", "yaml") if one.mark == mark]
    content: dict[str, Any] = yaml.safe_load(block.code)
    return content


def overlay_with(folder: Path, content: dict[str, Any]) -> Manifests:
    """Return the build of the first overlay with these keys in its kustomization."""
    site = shutil.copytree(K8S, folder / "k8s") / GKE
    path = site / "kustomization.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | content, sort_keys=False))
    return render(site)


def test_a_larger_disk_changes_only_the_claim(tmp_path: Path) -> None:
    built = overlay_with(tmp_path, documented("larger disk"))

    [claim] = built.workload["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    # Otherwise the pod would restart.
    assert built.workload["template"] == render(GKE).workload["template"]


def test_an_image_by_digest_has_no_tag(tmp_path: Path) -> None:
    content = documented("digest")
    [named] = content["images"]

    assert overlay_with(tmp_path, content).container["image"] == f"{named['newName']}@{named['digest']}"
