"""No text recommends the installation from a package index: the project owns no name there, so that a package with its
name would be of others. A path or a URL of a wheel is permitted.
"""

import re
import subprocess
from typing import Final

import pytest

from tests.support.checkout import ROOT

FROM_AN_INDEX: Final = re.compile(
    r"\b(?:pipx?|uv(?: tool| pip)?) (?:install|download|run|inject|upgrade)\b(?: -\S+)* "
    r"['\"]*aad[-_.]pod[-_.]identity(?![\w./-])",
    re.IGNORECASE,
)


def joined(text: str) -> str:
    """Return *text* with adjacent string literals of Python joined, and without line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"\"\s*\n\s*f?\"", "", text))


def test_no_file_recommends_a_package_of_an_index() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    texts = [(file, file.read_bytes().decode(errors="replace")) for file in files if file.is_file()]
    assert len(texts) > 1000
    assert [str(file) for file, text in texts if FROM_AN_INDEX.search(joined(text))] == []


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
