"""The README's demo with the real programs, as a user starts it: steps, output, exit code, clean-up."""

import json
import subprocess
import sys
from typing import Any

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.namespaces import NAMESPACES
from tests.testplane import up

pytestmark = pytest.mark.programs

LINES = [
    "successfully doARMOperations vm count 1",
    "successfully acquired a token using the MSI, msiEndpoint({endpoint})",
    f"successfully acquired a token, userAssignedID MSI, msiEndpoint({{endpoint}}) clientID({DEMO_CLIENT_ID})",
    "successfully made GET on instance metadata",
]


def demo(*flags: str) -> list[dict[str, Any]]:
    """Run the demo to its end, and test that none of its namespaces remains. Return the objects of its output."""
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
    return [json.loads(line) for line in output.splitlines()]


def test_without_namespaces_the_demo_reports_it_and_prints_the_used_endpoint() -> None:
    steps = demo("--loopback")
    assert "loopback" in steps[0]["answer"]
    endpoint = steps[-1]["lines"][1].partition("(")[2].rstrip(")")
    assert endpoint.startswith("http://127.0.0.1:")
    assert steps[-1]["lines"] == [line.format(endpoint=endpoint) for line in LINES]
    assert steps[-1]["ok"] is True
    assert steps[-1]["seconds"] < 60
    assert any("Created → Assigned" in step.get("answer", "") for step in steps)


@pytest.mark.root
def test_as_root_the_pod_uses_the_metadata_address_and_the_machine_is_clean() -> None:
    steps = demo()
    endpoint = "http://169.254.169.254/metadata/identity/oauth2/token"
    assert steps[-1]["lines"] == [line.format(endpoint=endpoint) for line in LINES]
    assert "-j DNAT --to-destination 127.0.0.1:2579" in steps[1]["answer"]


@pytest.mark.plane
@pytest.mark.parametrize("network", ["--loopback", pytest.param("", marks=pytest.mark.root, id="namespaces")])
def test_the_demo_on_the_real_api_server(plane: up.Plane, network: str) -> None:
    steps = demo(f"--kubeconfig={plane.kubeconfig}", *filter(None, [network]))
    assert len(steps[-1]["lines"]) == 4
    assert plane.api("GET", "/api/v1/nodes")["items"] == []
