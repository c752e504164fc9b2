"""Every failure of the demo names the next action. Other files test that the demo continues."""

import dataclasses

import pytest

from podidentity_demo.advice import Asked, advice
from podidentity_demo.settings import Settings
from podidentity_sandbox.serving import ResponseFault
from tests.demo.conftest import one_run
from tests.sandbox.azure.conftest import Azure


async def test_without_the_role_reader_the_command_that_grants_it_is_printed(azure: Azure, settings: Settings) -> None:
    azure.vm.attach(azure.one)
    failed, *_ = await one_run(settings)
    assert "answers 403: AuthorizationFailed" in failed
    assert "az role assignment create --role Reader" in failed


async def test_the_advice_for_an_unbound_pod_names_its_label(azure: Azure, settings: Settings) -> None:
    lines = await one_run(settings)
    assert all("Identity not found" in line and "aadpodidbinding" in line for line in lines[:3])
    assert lines[3:] == ["successfully made GET on instance metadata"]


async def test_the_advice_for_a_missing_group_names_the_flags(azure: Azure, settings: Settings) -> None:
    azure.directory.grant(azure.one.object_id, "Reader")
    azure.vm.attach(azure.one)
    azure.arm.faults.add(
        ResponseFault(status=404, document={"error": {"code": "ResourceGroupNotFound", "message": "m"}})
    )
    failed, *_ = await one_run(settings)
    assert "ResourceGroupNotFound: m; see that --subscriptionid and --resourcegroup are right" in failed


async def test_without_a_response_nmi_and_the_proxy_are_named(
    azure: Azure, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
    lines = await one_run(dataclasses.replace(settings, metadata_service="http://127.0.0.1:1"))
    assert len(lines) == 4
    assert all("see that NMI runs on this pod's node" in line for line in lines)


async def test_for_an_unreachable_arm_the_network_path_is_named(azure: Azure, settings: Settings) -> None:
    azure.vm.attach(azure.one)
    failed, *_ = await one_run(dataclasses.replace(settings, resource_manager="https://127.0.0.1:1"))
    assert "no answer from https://127.0.0.1:1: ConnectionRefusedError" in failed
    assert "network policies, the firewall, HTTPS_PROXY" in failed


async def test_a_proxy_that_refuses_is_named(azure: Azure, settings: Settings) -> None:
    azure.vm.attach(azure.one)
    by_proxy = dataclasses.replace(settings, proxy=azure.imds.url.removeprefix("http://"))
    failed, *_ = await one_run(by_proxy)
    assert "Tunnel connection failed" in failed
    assert "HTTPS_PROXY" in failed


@pytest.mark.parametrize("asked", Asked)
@pytest.mark.parametrize("status", [0, 200, 302, 400, 401, 403, 404, 410, 429, 500, 503])
def test_there_is_advice_for_every_status(asked: Asked, status: int) -> None:
    text = advice(asked, status)
    assert text
    assert text == " ".join(text.split())
    assert not text.endswith(".")


def test_a_refused_token_and_a_refused_list_have_different_advice() -> None:
    assert advice(Asked.TOKEN, 403) != advice(Asked.RESOURCE_MANAGER, 403)
