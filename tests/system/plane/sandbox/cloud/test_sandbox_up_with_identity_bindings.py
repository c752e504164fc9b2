"""`podidctl sandbox up --identity-bindings` and the steps of docs/sandbox.md, as a user runs them."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.checkout import ROOT
from tests.support.sandbox.cloud.terminal import CURL, Kubectl, podidctl, run, sandbox_up
from tests.support.waiting import until_sync

pytestmark = pytest.mark.programs

PAGE = ROOT / "docs" / "sandbox.md"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def shell(log: Path) -> Iterator[dict[str, str]]:
    """The environment of a shell with the variables that the sandbox prints."""
    with sandbox_up(log, "--identity-bindings") as environment:
        yield environment


def documented_objects() -> str:
    """Return the manifests of the page, with the shell's variable."""
    (text,) = re.findall(r"kubectl apply -f - <<END\n(.*?)\n *END", PAGE.read_text(), re.DOTALL)
    return textwrap.dedent(str(text))


def explained(shell: dict[str, str]) -> Any:
    code, output = podidctl(shell, "explain", "pod", "default/bound", "-o", "json")
    assert code in {0, 3}, output
    return yaml.safe_load(output)


def broken_links(shell: dict[str, str]) -> list[str]:
    return [link["link"] for link in explained(shell)["links"] if link["state"] == "broken"]


def test_the_documented_steps_end_with_a_token_and_a_fault_is_named(
    shell: dict[str, str], log: Path, tmp_path: Path, kubectl: Kubectl
) -> None:
    objects = tmp_path / "objects.yaml"
    objects.write_text(documented_objects().replace("$TENANT_ID", shell["TENANT_ID"]))
    assert kubectl(shell, "apply", "-f", str(objects))[0] == 0
    until_sync(lambda: broken_links(shell) == ["permission"])
    manifest = tmp_path / "permission.yaml"
    manifest.write_text(explained(shell)["manifest"])
    assert "manifest" in podidctl(shell, "token", "default/bound", "-o", "json")[1]
    code, output = podidctl(shell, "doctor")
    assert (code, manifest.read_text() in output) == (3, True), output

    assert kubectl(shell, "apply", "-f", str(manifest))[0] == 0
    until_sync(lambda: broken_links(shell) == [])
    assert podidctl(shell, "doctor")[0] == 0
    (request,) = CURL.findall(log.read_text())
    printed = run(shell, "sh", "-c", request)[1]
    assert "access_token" in printed, printed

    assert podidctl(shell, "sandbox", "fault", "proxy=audience") == (0, "proxy=audience\n")
    again = request.rstrip("'") + "&bypass_cache=true'"
    printed = run(shell, "sh", "-c", again)[1]
    assert "The token proxy does not accept the audience" in printed
    assert broken_links(shell) == ["token"]
    assert podidctl(shell, "sandbox", "fault", "--clear") == (0, "no fault is active\n")
    assert "access_token" in run(shell, "sh", "-c", again)[1]
