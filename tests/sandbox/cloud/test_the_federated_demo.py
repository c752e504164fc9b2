"""The demo of federated identities with the real programs, as a user starts it."""

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, identity_id
from tests.sandbox.cloud.test_the_demo_end_to_end import demo
from tests.testplane import up

pytestmark = pytest.mark.programs


def went_well(*flags: str) -> None:
    """Run the demo, and check the output of each step."""
    report = demo("--federated", *flags)
    *steps, end = report
    answers = {step["step"]: step["answer"] for step in steps}
    assert end["ok"] is True
    assert f"appid {DEMO_CLIENT_ID}" in end["lines"]
    assert f"xms_mirid {identity_id('demo')}" in end["lines"]
    held_answer = answers["the pod asks before Azure trusts its service account, and is held"]
    assert "AADSTS70025" in held_answer
    assert "the pod is answered 200 after" in held_answer
    refused = answers["the response to the other pod names the missing credential"]
    assert "subject system:serviceaccount:default:federated-stranger" in refused
    assert "audience api://AzureADTokenExchange" in refused
    assert "issuer https://127.0.0.1:" in refused
    assert answers["no call of ARM, and none of IMDS for a token"].startswith("ARM 0, IMDS 0; AAD exchanged 1 of")


def test_without_namespaces_the_pod_gets_its_token_and_no_vm_is_touched() -> None:
    went_well("--loopback")


@pytest.mark.root
def test_as_root_the_pod_gets_its_token_and_nothing_remains_on_the_machine() -> None:
    went_well()


@pytest.mark.plane
@pytest.mark.parametrize("network", ["--loopback", pytest.param("", marks=pytest.mark.root, id="namespaces")])
def test_the_federated_demo_on_the_real_api_server(plane: up.Plane, network: str) -> None:
    went_well(f"--kubeconfig={plane.kubeconfig}", *filter(None, [network]))
    assert plane.api("GET", "/api/v1/nodes")["items"] == []
