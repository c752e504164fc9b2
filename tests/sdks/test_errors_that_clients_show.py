"""What applications show of a refusal: of the Go implementation's plain text, and of NMI's JSON (docs/migration.md)."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.sdks.applications import Application

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

TEXT: Final = "AADSTS500011: The resource principal was not found"
_REFUSAL: Final = f'{{"error":"invalid_resource","error_description":"{TEXT}"}}'
PLAIN: Final = (
    "403",
    "text/plain; charset=utf-8",
    f"failed to refresh token, error: adal: Refresh request failed. Status Code = '400'. Response body: {_REFUSAL}\n",
)
JSON: Final = ("403", "application/json", f'{{"error":"access_denied","error_description":"Azure\'s answer: {TEXT}"}}')
LOSE_PLAIN_TEXT: Final = {"python-azure-identity", "python-msal"}
SHOW_NEITHER: Final = {"java-azure-identity"}
"""Their message refers to the cause of the exception."""


def shown(application: Application, response: tuple[str, str, str]) -> str:
    """Return what the application prints when the endpoint refuses its request with *response*."""
    program = Path(__file__).with_name("static_imds.py")
    command = [*application.make(), "managed", "https://vault.azure.net/.default", "1"]
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(program), *response, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_the_explanation_in_json_is_shown(application: Application) -> None:
    assert (TEXT in shown(application, JSON)) is (application.name not in SHOW_NEITHER)


def test_the_go_implementations_plain_text_is_lost_in_some(application: Application) -> None:
    assert (TEXT in shown(application, PLAIN)) is (application.name not in LOSE_PLAIN_TEXT | SHOW_NEITHER)
