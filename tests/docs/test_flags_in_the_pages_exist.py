"""Every flag in the documentation exists in this project's programs or in the other programs of the commands."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from mic.startup.flag_table import FLAGS as MIC_FLAGS
from nmi.flag_table import FLAGS as NMI_FLAGS
from podidctl.launcher import main as podidctl
from tests.docs import az_commands
from tests.docs.sentences import ROOT

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
OTHERS = {
    *("replicas", "server-side", "force-conflicts", "previous", "all", "for", "timeout", "patch", "type"),  # kubectl
    *("as", "field-manager", "raw", "all-namespaces", "selector", "output", "ignore-not-found"),  # kubectl
    *("image", "profile"),  # kubectl debug
    *("format", "build-arg"),  # docker
    "disable-pod-identity",  # az aks, with the extension aks-preview
    *("create-namespace", "set", "wait", "show-only", "take-ownership"),  # helm
    *("query", "identity-name", "resource-group", "issuer", "subject", "audiences", "name"),  # az
    "endpoint-resource-manager",  # az cloud register
    *("enable-oidc-issuer", "enable-imds-restriction", "cluster-name", "managed-identity-resource-id"),  # az aks
    *("service-account-issuer", "service-account-jwks-uri"),  # kube-apiserver
    *("service-account-key-file", "service-account-signing-key-file"),
    *("bundle", "certificate-identity", "certificate-oidc-issuer"),  # cosign
    *("repo", "dir", "source-ref", "signer-workflow"),  # gh
    "vex",  # trivy, grype
    *("check", "strict", "ignore-missing"),  # sha256sum, helm lint, twine
    *("network-plugin", "node-labels"),  # the kubelet
    "api-audiences",  # kube-apiserver
    "only",  # benchmarks.run and benchmarks.controller.run
    "flag",  # a placeholder
}
OTHERS |= {
    flag
    for command in [*az_commands.record()["accepted"], *az_commands.record()["extension aks-preview"]]
    for flag in re.findall(r"--([a-z][a-z-]+)", command)
}
COMMANDS: tuple[list[str], ...] = (
    [],
    ["explain", "pod"],
    ["token"],
    ["doctor"],
    ["verify"],
    ["access"],
    ["plan"],
    ["top"],
    ["sandbox", "up"],
    ["sandbox", "demo"],
    ["sandbox", "exec"],
    ["sandbox", "fault"],
    ["migrate", "from-reference"],
    ["migrate", "to-workload-identity"],
    ["migrate", "plan"],
    ["migrate", "apply"],
    ["migrate", "rollback"],
)


def podidctls() -> set[str]:
    """Return the flags in the help of its commands."""
    found: set[str] = set()
    for command in COMMANDS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            assert podidctl([*command, "--help"]) == 0
        found |= set(re.findall(r"--([a-z][a-z-]+)", output.getvalue()))
    return found


@pytest.fixture(scope="module")
def known() -> set[str]:
    ours = {name.lstrip("-") for flag in (*NMI_FLAGS, *MIC_FLAGS) for name in (flag.name, *flag.aliases)}
    return ours | podidctls() | OTHERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_a_page_names_exists(page: Path, known: set[str]) -> None:
    text = page.read_text()
    named = set(re.findall(r"(?<![\w-])--([A-Za-z][A-Za-z-]*[A-Za-z])", text))
    assert named <= known
