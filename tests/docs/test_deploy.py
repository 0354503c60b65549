"""The numbered paths of docs/deploy.md lead to manifests that are ready to be applied."""

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.docs.checkout import copied, shell
from tests.k8s.checks import problems
from tests.k8s.rendered import BASE, K8S, OVERLAYS, Manifests, render
from tests.k8s.schemas import violations
from tests.support.docs import DOCS, PAGES, ROOT, blocks
from tests.support.requirement import require

DEPLOY: Final = DOCS / "deploy.md"
ACCOUNT: Final = "till-exporter@till-project.iam.gserviceaccount.com"
# Terraform's outputs of another installation than the example's.
OUTPUTS: Final = {
    "exporter_service_account_email": ACCOUNT,
    "exporter_config": """\
project_name: till-project
pubsub:
  instance_creation_subscription_name: till-creation-subscription
  instance_interruption_subscription_name: till-interruption-subscription
  audience: "https://push.example.net"
  service_account_email: till-push@till-project.iam.gserviceaccount.com
""",
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
    terraform = folder / "bin" / "terraform"
    terraform.parent.mkdir()
    cases = "\n".join(f"*' -raw {name}') printf %s '{value}' ;;" for name, value in OUTPUTS.items())
    terraform.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\n*) exit 1 ;;\nesac\n')
    terraform.chmod(stat.S_IRWXU)
    return folder


def follow(overlay: str, checkout: Path) -> Path:
    """Run the variables and the overlay's step; return the folder of the new overlay."""
    [variables] = code("variables")
    image = re.findall(r"^export IMAGE=.*$", variables, re.MULTILINE)
    done = shell("\n".join([variables, SITE, *image, 'PATH="$PWD/bin:$PATH"', STEPS[overlay]]), checkout)
    assert (done.returncode, done.stderr) == (0, "")
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
    assert settings.pubsub.audience == ("https://push.example.net",)
    assert built.one("Ingress")["spec"]["rules"][0]["host"] == "push.example.net"
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
            " && git tag v0.1.0",
            checkout,
        )
        assert committed.returncode == 0, committed.stderr
        outside = outside.replace(address, f"file://{checkout}")
    else:
        outside = outside.replace(f"{address}//", "../spot-interruption-exporter/").replace("?ref=v0.1.0", "")

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
    } - {"source"}
    attributes = {"region", "network", "subnetworks"}

    assert len(found) >= 3
    assert variables - attributes <= declared("variable", "variables.tf")
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("needs terraform, which is not here")
    for code in found:
        done = subprocess.run(
            [terraform, "fmt", "-check", "-"], input=code, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, code
