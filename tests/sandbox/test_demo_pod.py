"""The demo pod's program by itself, against IMDS and ARM: its lines, what it says of failures, its patience."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from podidctl.demo_pod import Settings, parse, run
from tests.sandbox.azure.conftest import GROUP, SUBSCRIPTION, Azure
from tests.sandbox.azure.conftest import azure as azure  # noqa: PLC0414 - a fixture

ARGV = ["--subscriptionid=s", "--clientid=c", "--resourcegroup=g"]


def settings(azure: Azure, **environ: str) -> Settings:
    argv = [
        f"--subscriptionid={SUBSCRIPTION}",
        f"--clientid={azure.one.client_id}",
        f"--resourcegroup={GROUP}",
        "--once",
    ]
    return parse(argv, {"AZURE_POD_IDENTITY_AUTHORITY_HOST": azure.imds.url, **environ})


async def go(chosen: Settings, sleep: Callable[[float], None]) -> list[str]:
    lines: list[str] = []
    assert await asyncio.to_thread(run, chosen, say=lines.append, sleep=sleep) == 0
    return lines


def test_the_flags_are_those_of_the_image_before_ours_and_the_defaults_are_azures() -> None:
    parsed = parse(ARGV, {})
    assert (parsed.subscription, parsed.client_id, parsed.resource_group) == ("s", "c", "g")
    assert parsed.metadata_service == "http://169.254.169.254"
    assert parsed.resource_manager == "https://management.azure.com"
    assert parsed.resource == "https://management.azure.com/"


def test_a_missing_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(ARGV[1:], {})
    assert ended.value.code == 2
    assert "--subscriptionid" in capsys.readouterr().err


async def test_the_four_lines_come_in_order_once_everything_works(
    azure: Azure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    await asyncio.to_thread(authority.write_text, azure.authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    endpoint = f"{azure.imds.url}/metadata/identity/oauth2/token"
    assert await go(settings(azure, AZURE_RESOURCE_MANAGER_ENDPOINT=azure.arm.url), lambda _: None) == [
        "successfully doARMOperations vm count 1",
        f"successfully acquired a token using the MSI, msiEndpoint({endpoint})",
        f"successfully acquired a token, userAssignedID MSI, msiEndpoint({endpoint}) clientID({azure.one.client_id})",
        "successfully made GET on instance metadata",
    ]


async def test_a_failure_is_told_and_the_step_is_tried_again(azure: Azure) -> None:
    waits: list[float] = []

    class EnoughError(Exception):
        pass

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise EnoughError

    lines: list[str] = []
    with pytest.raises(EnoughError):
        await asyncio.to_thread(run, settings(azure), say=lines.append, sleep=sleep)
    assert waits == [20, 20]
    assert all(line.startswith("failed to doARMOperations, error: ") and "Identity not found" in line for line in lines)
