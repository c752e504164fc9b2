"""The demo's steps with the emulators of IMDS and Azure Resource Manager, at the addresses that a pod would use."""

import asyncio
import os
from pathlib import Path

import pytest

from podidentity_demo.demo import Demo, go_round
from podidentity_demo.settings import DemoSettings, parse
from tests.contract.sandbox.azure.conftest import GROUP, SUBSCRIPTION, Azure
from tests.contract.sandbox.azure.conftest import azure as azure  # noqa: PLC0414 - a fixture


def names_of(azure: Azure) -> list[str]:
    """Return the flags that name the identity `azure.one` and its group."""
    return [f"--subscriptionid={SUBSCRIPTION}", f"--clientid={azure.one.client_id}", f"--resourcegroup={GROUP}"]


@pytest.fixture
async def settings(azure: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DemoSettings:
    """The demo's settings for the identity `azure.one`; Azure's library reads the same environment."""
    authority = tmp_path / "ca.pem"
    await asyncio.to_thread(authority.write_text, azure.authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.imds.url)
    monkeypatch.setenv("AZURE_RESOURCE_MANAGER_ENDPOINT", azure.arm.url)
    return await asyncio.to_thread(parse, names_of(azure), os.environ)  # argparse looks for translations on the disk


async def one_run(settings: DemoSettings) -> list[str]:
    """Return the lines of one run of the steps."""
    lines: list[str] = []
    await asyncio.to_thread(go_round, Demo(settings).steps, lines.append)
    return lines
