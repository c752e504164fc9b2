"""The demos with the real programs, as a user starts them: steps, output, exit code, clean-up.

Excluded: the demo of the README in network namespaces (`tests/repository/docs/test_the_recorded_demo.py` compares its
whole output).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, identity_id
from podidentity_sandbox.namespaces import NAMESPACES
from tests.support.testplane import up

pytestmark = pytest.mark.programs

LINES = [
    "successfully doARMOperations vm count 1",
    "successfully acquired a token using the MSI, msiEndpoint({endpoint})",
    f"successfully acquired a token, userAssignedID MSI, msiEndpoint({{endpoint}}) clientID({DEMO_CLIENT_ID})",
    "successfully made GET on instance metadata",
]


def demo(*flags: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Run a demo to its end, and test that none of its namespaces remains. Return the answers by step, and the end."""
    command = [sys.executable, "-m", "podidctl", "sandbox", "demo", "--json", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=110)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, output + errors
    assert errors == ""
    assert not list(NAMESPACES.glob(f"podid-{process.pid}-*"))
    *steps, end = [json.loads(line) for line in output.splitlines()]
    assert end["ok"] is True
    return {step["step"]: step["answer"] for step in steps}, end


def attaches_an_identity(*flags: str) -> None:
    """Run the README's demo, and check its output."""
    answers, end = demo(*flags)
    is_loopback = "--loopback" in flags
    assert ("loopback" in answers["start the sandbox, MIC and NMI"]) is is_loopback
    endpoint = end["lines"][1].partition("(")[2].rstrip(")")
    assert endpoint.startswith("http://127.0.0.1:" if is_loopback else "http://169.254.169.254/")
    assert end["lines"] == [line.format(endpoint=endpoint) for line in LINES]
    assert "Created → Assigned" in answers["MIC assigns: AzureAssignedIdentity"]


def exchanges_a_service_accounts_token(*flags: str) -> None:
    """Run the demo of federated identities, and check the answers of its steps."""
    answers, end = demo("--federated", *flags)
    assert f"appid {DEMO_CLIENT_ID}" in end["lines"]
    assert f"xms_mirid {identity_id('demo')}" in end["lines"]
    held = answers["the pod asks before Azure trusts its service account, and is held"]
    assert "AADSTS70025" in held
    assert "the pod is answered 200 after" in held
    refused = answers["the response to the other pod names the missing credential"]
    assert "subject system:serviceaccount:default:federated-stranger" in refused
    assert "audience api://AzureADTokenExchange" in refused
    assert "issuer https://127.0.0.1:" in refused
    assert answers["no call of ARM, and none of IMDS for a token"].startswith("ARM 0, IMDS 0; AAD exchanged 1 of")


def two_pods_use_one_credential(*flags: str) -> None:
    """Run the demo of AKS identity bindings, and check the answers of its steps."""
    answers, end = demo("--federated", "--identity-bindings", *flags)
    assert f"appid {DEMO_CLIENT_ID}" in end["lines"]
    held = answers["the pod asks before the identity binding exists, and is held"]
    assert held.startswith("the token proxy answered 404")
    assert "the pod is answered 200 after" in held
    refused = answers["the response to the other pod names the missing permission"]
    assert refused.startswith("403: ")
    assert "use-managed-identity" in refused
    assert "1 federated credential" in answers["with the permission the other pod gets a token too"]
    assert answers["no call of ARM and Entra ID, and none of IMDS for a token"].startswith("ARM 0, IMDS 0, AAD 0;")


@pytest.mark.parametrize(
    ("run", "flags"),
    [
        (attaches_an_identity, ("--loopback",)),
        (exchanges_a_service_accounts_token, ("--loopback",)),
        pytest.param(two_pods_use_one_credential, (), marks=pytest.mark.root),
    ],
    ids=["attached", "federated", "identity bindings"],
)
def test_on_the_emulator_the_demo_ends_as_its_steps_say(run: Callable[..., None], flags: tuple[str, ...]) -> None:
    run(*flags)


def objects(plane: up.Plane) -> set[tuple[str, str, str]]:
    """Return path, name and uid of nodes, pods and what has this project's name. Other tests leave pods."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    all_of, named = ["/api/v1/nodes", "/api/v1/pods"], ["/api/v1/serviceaccounts"]
    named += [f"{rbac}/{kind}" for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")]
    metadata = [(path, item["metadata"]) for path in all_of + named for item in plane.api("GET", path)["items"]]
    return {
        (path, meta["name"], meta["uid"])
        for path, meta in metadata
        if path in all_of or "aad-pod-identity" in meta["name"]
    }


@pytest.mark.plane
@pytest.mark.parametrize(
    ("run", "flags"),
    [
        pytest.param(attaches_an_identity, (), marks=pytest.mark.root),
        pytest.param(exchanges_a_service_accounts_token, (), marks=pytest.mark.root),
        (two_pods_use_one_credential, ("--loopback",)),
    ],
    ids=["attached", "federated", "identity bindings"],
)
def test_on_the_real_api_server_nothing_remains(
    plane: up.Plane, run: Callable[..., None], flags: tuple[str, ...]
) -> None:
    before = objects(plane)
    run(f"--kubeconfig={plane.kubeconfig}", *flags)
    assert objects(plane) - before == set()
