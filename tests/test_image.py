"""The Dockerfile, its packages, its health check, and the workflows that publish the image."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.process import LOOPBACK, free_port
from tests.support.program import ExporterProcess
from tests.support.requirement import require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)


def instructions(name: str) -> list[str]:
    """Return the arguments of each instruction of this name in the Dockerfile, on one line."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == name]


def command(name: str) -> list[str]:
    """Return an instruction in its exec form, which does not start a shell."""
    [line] = instructions(name)
    words: list[str] = json.loads(line[line.index("[") :])
    return words


def pins(path: Path) -> Mapping[str, Version]:
    """Return the versions in a file of hashed requirements, by package. Every package must have a hash."""
    found: dict[str, Version] = {}
    for block in re.split(r"\n(?=\S)", path.read_text()):
        requirement, *hashes = block.split(" \\\n")
        name, _, version = requirement.partition("==")
        assert re.match(r" +--hash=sha256:[0-9a-f]{64}", hashes[0]), requirement
        found[canonicalize_name(name)] = Version(version)
    return found


def lint(program: str, *arguments: str | Path) -> None:
    """Run a linter that is installed beside pytest; its findings are the message of the failure."""
    path = require(program, shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"))
    done = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_has_no_finding() -> None:
    lint("hadolint", "Dockerfile")


def test_both_stages_are_on_one_exact_python() -> None:
    bases = [
        re.match(r"python:(\d+\.\d+\.\d+)-slim-[a-z]+( AS build)?$", line) for line in instructions("FROM")
    ]

    assert all(bases)
    [version] = {base[1] for base in bases if base}
    assert (
        f"Programming Language :: Python :: {version.rpartition('.')[0]}" in PROJECT["project"]["classifiers"]
    )


@pytest.mark.parametrize(
    ("wanted", "pinned"),
    [
        pytest.param(
            [
                *PROJECT["project"]["dependencies"],
                *PROJECT["project"]["optional-dependencies"]["redis"],
                *PROJECT["project"]["optional-dependencies"]["pull"],
            ],
            "requirements.txt",
            id="runtime",
        ),
        pytest.param(PROJECT["build-system"]["requires"], "infra/image/build-requirements.txt", id="build"),
    ],
)
def test_every_dependency_is_pinned_within_its_range(wanted: list[str], pinned: str) -> None:
    versions = pins(ROOT / pinned)

    for requirement in map(Requirement, wanted):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_documented_command_pins_every_extra_of_the_image() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"]) - {"test"}
    [command] = re.findall(r"uv pip compile (.*) \\\n  --output-file requirements.txt", CONTRIBUTING)

    assert set(re.findall(r"--extra (\w+)", command)) == extras == {"pull", "redis"}


def test_only_the_project_itself_is_installed_without_a_hash() -> None:
    installs = [
        step
        for line in instructions("RUN")
        for step in line.split("&&")
        if " install " in step and "pip" in step
    ]

    assert len(installs) == 3
    for step in installs:
        assert ("--require-hashes" in step) != ("--no-deps --no-index" in step), step


def test_the_image_holds_what_the_wheel_of_this_version_starts(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, tmp_path], cwd=ROOT, capture_output=True, check=True)
    [wheel] = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        [entry_points] = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        scripts = ConfigParser()
        scripts.read_string(files.read(entry_points).decode())

    assert command("ENTRYPOINT") == list(scripts["console_scripts"])
    # Also files that are not Python: the program reads them at run time.
    sources = [path for path in (ROOT / "app").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {str(path.relative_to(ROOT)) for path in sources} <= set(names)
    assert {name.partition("/")[0] for name in names} == {
        "app",
        wheel.name.rpartition("-py3-")[0] + ".dist-info",
    }
    assert f"VERSION={PROJECT['project']['version']}" in instructions("ARG")


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    excluded, *included = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    allowed = [Path(line.removeprefix("!")) for line in included if line.startswith("!")]
    copied = [
        Path(word)
        for line in instructions("COPY")
        if not line.startswith("--from")
        for word in re.sub(r"--\S+ ", "", line).split()[:-1]
    ]

    assert excluded == "*"
    assert all(any(source.is_relative_to(path) for path in allowed) for source in copied)
    assert all(any(source.is_relative_to(path) for source in copied) for path in allowed)
    assert all((ROOT / source).exists() for source in copied)


def test_it_runs_as_the_numeric_user_that_owns_its_folder_and_that_kubernetes_names() -> None:
    [user] = instructions("USER")
    folder = instructions("WORKDIR")[-1]
    [pod] = re.findall(
        r"runAsUser: (\d+)\n *runAsGroup: (\d+)", (ROOT / "k8s/base/stateful-set.yaml").read_text()
    )

    assert user == "10001:10001" == ":".join(pod)
    assert "--owner=10001 --group=10001" in instructions("RUN")[-1]
    assert instructions("RUN")[-1].endswith(f" {folder}")


def test_it_is_stopped_by_the_signal_that_the_exporter_winds_down_on() -> None:
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the configuration file of a running exporter."""
    directory = tmp_path_factory.mktemp("exporter")
    with ExporterProcess(directory):
        yield directory / "config.yaml"


def test_an_exporter_that_answers_on_the_configured_port_is_healthy(healthy: Path) -> None:
    assert health(CONFIG_PATH=str(healthy)) == (0, "")


def test_a_wildcard_address_is_probed_on_loopback(healthy: Path) -> None:
    assert health(CONFIG_PATH=str(healthy), SIE_SERVER__HOST="0.0.0.0") == (0, "")  # noqa: S104


def test_a_port_without_a_listener_is_unhealthy() -> None:
    code, said = health(SIE_SERVER__HOST=LOOPBACK, SIE_SERVER__PORT=str(free_port()))

    assert code == 1
    assert "refused" in said


def test_an_exporter_that_says_so_is_unhealthy() -> None:
    with http.server.HTTPServer((LOOPBACK, 0), _Ailing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            said = health(SIE_SERVER__HOST=LOOPBACK, SIE_SERVER__PORT=str(server.server_port))
        finally:
            server.shutdown()
            thread.join()

    assert said == (1, "503 not running: the writer\n")


def test_a_wrong_configuration_is_unhealthy_and_the_key_is_named() -> None:
    code, said = health(SIE_SERVER__PORT="http")

    assert code == 1
    assert "SIE_SERVER__PORT" in said


class _Ailing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE)
        self.end_headers()
        self.wfile.write(b"not running: the writer")

    def log_message(self, *_: object) -> None:
        pass


def health(**environment: str) -> tuple[int, str]:
    """Return the exit code and the output of the image's health check."""
    interpreter, script = command("HEALTHCHECK")
    assert interpreter == "python"
    [source] = [line.split()[-2] for line in instructions("COPY") if line.split()[-1] == script]
    done = subprocess.run(
        [sys.executable, ROOT / source],
        env=os.environ | {"SIE_PUBSUB__AUTHENTICATION": "none"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@each_workflow
def test_a_workflow_is_what_github_reads(workflow: Path) -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow)


def test_the_workflows_and_dependabot_have_no_finding() -> None:
    lint("zizmor", "--offline", "--quiet", ".github")
    lint("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yaml")


@each_workflow
def test_a_workflow_grants_nothing_and_each_job_what_it_needs_for_a_time(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text())

    assert content["permissions"] == {}
    for job in content["jobs"].values():
        assert job["permissions"].pop("contents") == "read"
        assert job["permissions"] in ({}, {"packages": "write"})
        assert "uses" in job or job["timeout-minutes"] <= 60


def test_an_action_is_pinned_to_one_commit_and_its_version_is_in_a_comment() -> None:
    used = [
        line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text()) if line[:2] != "./"
    ]
    parts = [re.fullmatch(r"([\w./-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+", line) for line in used]

    assert all(parts), used
    commits = {(part[1], part[2]) for part in parts if part}
    assert len(commits) == len({action for action, _ in commits})


def test_ci_tests_every_python_that_is_promised() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))

    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
