"""The commands of docs/install-on-aks.md, word for word: from an empty cluster to a token, and back.

`az`, `docker` and `pipx` are programs with fixed answers. kubectl, helm, the API server, the node's programs and the
chart are real, Azure is the sandbox's.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from podidentity.version import VERSION
from podidentity_sandbox.azure import DEMO_IDENTITY, RESOURCE_GROUP, SUBSCRIPTION
from podidentity_sandbox.settings import CHART_VALUES
from tests.support.checkout import ROOT
from tests.support.operators_shell import Terminal, blocks_of, commands_of, sandbox_cluster
from tests.support.waiting import until_sync
from tests.system.plane.e2e import azure_cli
from tests.system.plane.e2e.azure_cli import DEMO_PRINCIPAL, KUBELET_IDENTITY, LOGIN_SERVER

pytestmark = [pytest.mark.root, pytest.mark.plane, pytest.mark.nightly]

PAGE: Final = (ROOT / "docs" / "install-on-aks.md").read_text()
ALTERNATIVES: Final = {"Other principals", "A smaller role for the nodes", "Without a connection to the internet"}
FAULTS_FOUND: Final = 3
"""The exit code of podidctl with findings: a cluster of one sandbox node has some."""
DIAGNOSES: Final = ("podidctl doctor", "podidctl explain")
NOT_HERE: Final = ("kubectl exec --namespace podid podidctl",)
"""The sandbox's kubelet has no image of podidctl; tests/system/images runs it."""


def sections() -> dict[str, str]:
    """Return the text of each section, without its subsections, by its heading."""
    parts = re.split(r"^##+ (.*)\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the heading of each section that is not an alternative, and its commands."""
    for heading, text in sections().items():
        if heading not in ALTERNATIVES and (blocks := blocks_of(text)):
            yield heading, [command for block in blocks for command in commands_of(block)]


def values() -> dict[str, Any]:
    """Return the values file of the section Install, with those of the sandbox's cloud."""
    (block,) = blocks_of(sections()["Install"], "yaml")
    document: dict[str, Any] = yaml.safe_load(block)
    for key, more in CHART_VALUES.items():
        document[key] = {**document.get(key, {}), **more}
    return document


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A copy of this checkout by links, with values.yaml, next to a running cluster."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for path in ROOT.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "values.yaml").write_text(yaml.safe_dump(values()))
    with sandbox_cluster(tmp_path):
        yield folder


def type_section(terminal: Terminal, given: list[str]) -> dict[str, str]:
    """Type the commands of a section. Return their output by the first two words."""
    printed = {}
    for command in given:
        if command.startswith(NOT_HERE):
            continue
        done = terminal.type(command)
        allowed = {0, FAULTS_FOUND} if command.startswith(DIAGNOSES) else {0}
        assert done.returncode in allowed, f"{command}\n{done.stdout}{done.stderr}"
        printed[" ".join(command.split()[:2])] = done.stdout
    return printed


def the_demo_uses_its_identity_in_four_ways(terminal: Terminal, given: list[str]) -> None:
    """Repeat the page's command for the demo's log until it has the four lines."""
    (logs,) = (command for command in given if command.startswith("kubectl logs"))
    log = until_sync(
        lambda: terminal.type(logs).stdout, "four lines in the demo's log", holds=lambda text: text.count("\n") >= 4
    )
    assert log.count("successfully") >= 4, log


def test_the_page_leads_to_a_token_and_back(checkout: Path, tmp_path: Path) -> None:
    log = azure_cli.install(tmp_path / "programs")
    terminal = Terminal(checkout)
    cluster = ROOT / "build" / "cluster"
    assert terminal.type(f"export PATH={tmp_path}/programs:{cluster}/bin:$PATH").returncode == 0
    assert terminal.type(f"export KUBECONFIG={cluster}/kubeconfig").returncode == 0
    printed = {}
    for heading, given in commands():
        printed[heading] = type_section(terminal, given)
        if heading == "First token":
            the_demo_uses_its_identity_in_four_ways(terminal, given)
    assert "Succeeded" in printed["Verify"]["helm test"]
    assert printed["Verify"]["kubectl get"].count(DEMO_IDENTITY) > 0
    assert terminal.type("kubectl get pods --all-namespaces --output name").stdout == ""
    roles = [
        tuple(words[words.index(f"--{option}") + 1] for option in ("assignee-object-id", "role", "scope"))
        for words in azure_cli.commands(log, "az")
        if words[:3] == ["role", "assignment", "create"]
    ]
    group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/"
    assert roles == [
        (KUBELET_IDENTITY, "Virtual Machine Contributor", group + RESOURCE_GROUP),
        (KUBELET_IDENTITY, "Managed Identity Operator", group + "pod-identities"),
        (DEMO_PRINCIPAL, "Reader", group + RESOURCE_GROUP),
    ]
    pushed = [arguments[1] for arguments in azure_cli.commands(log, "docker") if arguments[0] == "push"]
    assert pushed == [
        f"{LOGIN_SERVER}/aad-pod-identity/{program}:{VERSION}" for program in ("nmi", "mic", "podidctl", "demo")
    ]
    built = {words[words.index("-t") + 1] for words in azure_cli.commands(log, "docker") if words[0] == "build"}
    assert built == set(pushed)
