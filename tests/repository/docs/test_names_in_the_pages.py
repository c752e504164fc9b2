"""Flags, metrics, files, modules and objects of the cluster that the documentation names exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from nmi.settings import FORMER_FLAGS
from podidctl.cli import application
from podidentity.settings import flags_of
from podidentity.telemetry.metrics import expose
from tests.support import az_commands
from tests.support.checkout import ROOT
from tools.chart.rendering import DEFAULTS
from tools.handbook.flags import PROGRAMS
from tools.handbook.metrics import mic_registry, nmi_registry, shown

PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
OTHERS = {
    *("replicas", "server-side", "force", "force-conflicts", "previous", "all", "for", "timeout", "patch"),  # kubectl
    *("as", "field-manager", "raw", "all-namespaces", "selector", "output", "ignore-not-found", "type"),  # kubectl
    *("image", "profile"),  # kubectl debug
    *("format", "build-arg"),  # docker
    "disable-pod-identity",  # az aks, with the extension aks-preview
    *("create-namespace", "set", "wait", "show-only", "take-ownership"),  # helm
    *("query", "identity-name", "resource-group", "issuer", "subject", "audiences", "name", "parameters"),  # az
    "endpoint-resource-manager",  # az cloud register
    *("enable-oidc-issuer", "enable-imds-restriction", "cluster-name", "managed-identity-resource-id"),  # az aks
    "excluded-namespaces",  # az aks safeguards
    "login",  # kubelogin
    *("service-account-issuer", "service-account-jwks-uri"),  # kube-apiserver
    *("service-account-key-file", "service-account-signing-key-file"),
    *("bundle", "certificate-identity", "certificate-oidc-issuer"),  # cosign
    *("repo", "dir", "source-ref", "signer-workflow"),  # gh
    "vex",  # trivy, grype
    *("check", "strict", "ignore-missing"),  # sha256sum, helm lint, twine
    *("network-plugin", "node-labels"),  # the kubelet
    *("api-audiences", "client-ca-file", "kubelet-client-certificate"),  # kube-apiserver
    "only",  # benchmarks.run and benchmarks.controller.run
    "flag",  # a placeholder
}
OTHERS |= {
    flag
    for command in [*az_commands.record()["accepted"], *az_commands.record()["extension aks-preview"]]
    for flag in re.findall(r"--([a-z][a-z-]+)", command)
}
NAMES = {metric.name for made in (nmi_registry, mic_registry) for metric in shown(expose(made()).decode())}
INSTALLED = sorted(
    [*(ROOT / "deploy" / "manifests").rglob("*.yaml"), *(ROOT / "deploy" / "demo").rglob("*.yaml"), DEFAULTS]
)
PACKAGES = "_native|nmi|mic|podidentity|podidentity_sandbox|podidentity_demo|podidctl|tests|tools|benchmarks"
FILE = re.compile(rf"`((?:{PACKAGES})/[\w./-]+\.(?:py|pyx|pml|toml|json))(?:::\w+)?`")
MODULE = re.compile(rf"`((?:{PACKAGES})(?:\.[a-z_]+)+)`")
COMMAND = re.compile(r"`(kubectl [^`]+)`|^ *(?:[\w$()=]*\()?(kubectl .+)", re.MULTILINE)
OBJECT = re.compile(r"(?<!-f )\b(deploy|deployment|ds|daemonset)/([a-z][\w-]*)")
KINDS = {"deploy": "Deployment", "deployment": "Deployment", "ds": "DaemonSet", "daemonset": "DaemonSet"}


def options_of(command: Any) -> Iterator[str]:
    """Yield the options of *command* and of the commands below it."""
    yield "--help"
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for subcommand in getattr(command, "commands", {}).values():
        yield from options_of(subcommand)


@pytest.fixture(scope="module")
def existing_flags() -> set[str]:
    flags = {name for program in PROGRAMS.values() for flag in flags_of(program) for name in (flag.flag, flag.alias)}
    return {name.lstrip("-") for name in (*flags, *FORMER_FLAGS, *options_of(get_command(application())))} | OTHERS


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "runbooks"], ids=lambda page: page.name)
def test_every_flag_and_metric_that_a_page_names_exists(page: Path, existing_flags: set[str]) -> None:
    text = page.read_text()
    assert set(re.findall(r"(?<![\w-])--([A-Za-z][A-Za-z-]*[A-Za-z])", text)) <= existing_flags
    assert set(re.findall(r"aadpodidentity_[a-z0-9_]+", text)) <= NAMES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_source_file_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in FILE.findall(page.read_text()) if not (ROOT / name).is_file()] == []


def test_every_module_that_the_architecture_names_exists() -> None:
    modules = set(MODULE.findall((ROOT / "docs" / "architecture.md").read_text()))
    assert len(modules) > 40
    paths = {name: ROOT.joinpath(*name.split(".")) for name in modules}
    assert [
        name for name, path in paths.items() if not path.is_dir() and not any(path.parent.glob(f"{path.name}.py*"))
    ] == []


def commands(page: Path) -> Iterator[str]:
    """Yield each kubectl command in blocks and sentences; a wrapped command is one."""
    text = re.sub(r"\\\n *", " ", page.read_text())
    for match in COMMAND.finditer(text):
        yield " ".join((match[1] or match[2]).split())


@pytest.fixture(scope="module")
def installed() -> set[tuple[str, str]]:
    """Return kind and name of the objects that run pods."""
    return {
        (document["kind"], document["metadata"]["name"])
        for file in INSTALLED
        for document in yaml.safe_load_all(file.read_text())
        if document and document["kind"] in KINDS.values()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_commands_to_installed_objects_with_their_namespace(
    page: Path, installed: set[tuple[str, str]]
) -> None:
    for target in re.findall(r"\]\(((?!https?:|#)[^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    assert sum(bool(OBJECT.search(command)) for page in PAGES for command in commands(page)) >= 3
    for command in commands(page):
        named = {(KINDS[kind], name) for kind, name in OBJECT.findall(command)}
        assert named <= installed
        assert not named or re.search(r" (-n|--namespace) \S", command), command
