"""No text recommends the installation from a package index: the project owns no name there, so that a package with its
name would be of others. A path or a URL of a wheel is permitted. No text applies a file whose image is a placeholder.
"""

import re
import subprocess
from typing import Final

import pytest

from podidentity.exits import installation
from tests.support.checkout import ROOT

FROM_AN_INDEX: Final = re.compile(
    r"\b(?:pipx?|uv(?: tool| pip)?) (?:install|download|run|inject|upgrade)\b(?: -\S+)* "
    r"['\"]*aad[-_.]pod[-_.]identity(?![\w./-])",
    re.IGNORECASE,
)

APPLIED: Final = re.compile(r"\bkubectl (?:apply|create|replace)(?: -\S+)* (?:-f|--filename)[ =](deploy/[\w./-]+)")
PLACEHOLDER: Final = re.compile(r"image: .*\bREGISTRY\b")


def joined(text: str) -> str:
    """Return *text* with adjacent string literals of Python joined, and without line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"\"\s*\n\s*f?\"", "", text))


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Return the text of each file of the project, by its path."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if (ROOT / name).is_file()]
    read = {name: joined((ROOT / name).read_bytes().decode(errors="replace")) for name in names}
    assert len(read) > 1000
    return read


def test_no_file_recommends_a_package_of_an_index(texts: dict[str, str]) -> None:
    assert [name for name, text in texts.items() if FROM_AN_INDEX.search(text)] == []


def test_no_command_applies_an_image_that_is_a_placeholder(texts: dict[str, str]) -> None:
    """`sed` replaces the placeholder in the other commands."""
    applied = {(name, path.rstrip(".")) for name, text in texts.items() for path in APPLIED.findall(text)}
    assert ("docs/migration.md", "deploy/crds") in applied
    assert [
        (name, path)
        for name, path in applied
        for file in ((ROOT / path).glob("*.yaml") if (ROOT / path).is_dir() else [ROOT / path])
        if PLACEHOLDER.search(file.read_text())
    ] == []


def test_the_advice_about_an_extra_works_over_an_installation_and_needs_a_compiler_for_nmi_only() -> None:
    assert installation("report").startswith("NATIVE_OMIT=1 pipx install --force '.[report]' in a checkout")
    assert "NATIVE_OMIT=1 pip install --force-reinstall" in installation("mic")
    for extras in ("nmi", "sandbox", "kubeconfig,mic,nmi"):
        assert installation(extras).startswith(f"pipx install --force '.[{extras}]' in a checkout")
        assert "NATIVE_OMIT" not in installation(extras)


@pytest.mark.parametrize(
    "module", ["podidentity_demo.launcher", "podidentity.kube.kubeconfig"], ids=["the demo", "a kubeconfig"]
)
def test_programs_that_import_nothing_of_the_project_advise_the_same(texts: dict[str, str], module: str) -> None:
    advice = installation("demo" if module.endswith("launcher") else "kubeconfig,mic,nmi")
    command, _, in_environment = advice.partition(" in a checkout")
    text = texts[f"{module.replace('.', '/')}.py"]
    assert command in text
    assert in_environment.rpartition("(")[2] in text


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("pip install " + "aad-pod-identity", True),
        ("pipx install " + "'aad-pod-identity[podidctl]'", True),
        ('f"pip install "\n    "' + "'aad_pod_identity[nmi]'", True),
        ("pip install -q --upgrade " + "AAD-Pod-Identity[sandbox]", True),
        ("pip install '.[podidctl]'", False),
        ("pipx install 'aad_pod_identity-1.0.0-py3-none-any.whl[podidctl]'", False),
        ("helm install aad-pod-identity deploy/charts/aad-pod-identity", False),
    ],
)
def test_which_commands_are_refused(text: str, refused: bool) -> None:
    assert bool(FROM_AN_INDEX.search(joined(text))) is refused
