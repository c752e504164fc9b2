"""The demo of AKS identity bindings with the real programs, as a user starts it."""

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from tests.sandbox.cloud.test_the_demo_end_to_end import demo
from tests.testplane import up

pytestmark = pytest.mark.programs


def went_well(*flags: str) -> None:
    """Run it, and check the answer of each step."""
    report = demo("--federated", "--identity-bindings", *flags)
    *steps, end = report
    answers = {step["step"]: step["answer"] for step in steps}
    assert end["ok"] is True
    assert f"appid {DEMO_CLIENT_ID}" in end["lines"]
    held = answers["the pod asks before the identity binding exists, and is held"]
    assert held.startswith("the token proxy answered 404")
    assert "the pod is answered 200 after" in held
    refused = answers["the response to the other pod names the missing permission"]
    assert refused.startswith("403: ")
    assert "use-managed-identity" in refused
    assert "1 federated credential" in answers["with the permission the other pod gets a token too"]
    assert answers["no call of ARM and Entra ID, and none of IMDS for a token"].startswith("ARM 0, IMDS 0, AAD 0;")


def test_without_namespaces_two_pods_use_one_credential() -> None:
    went_well("--loopback")


@pytest.mark.root
def test_as_root_two_pods_use_one_credential_and_nothing_remains_on_the_machine() -> None:
    went_well()


@pytest.mark.plane
def test_the_real_api_server_authorises_the_pods(plane: up.Plane) -> None:
    went_well(f"--kubeconfig={plane.kubeconfig}", "--loopback")
    assert plane.api("GET", "/api/v1/nodes")["items"] == []
