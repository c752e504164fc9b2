"""The redirect backend `cilium` on a node where a Cilium agent routes pods' packets past netfilter."""

import json
import signal
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import DEMO_IDENTITY
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node import client, manifests
from tests.system.node.bed import NAMESPACE, NMI, Bed, is_ready
from tests.system.node.evaluation import interruption
from tests.system.node.options import Options
from tests.system.node.processes import wait_for
from tests.system.node.scenario import GOOD_PROBES, TOKEN, Scenarios

pytestmark = pytest.mark.node

VALUES: Final[dict[str, Any]] = {
    "nmi": {"redirect": {"backend": "cilium"}, "handover": {"enabled": False}, "servicePrincipals": True}
}
OPEN: Final[dict[str, Any]] = {"nmi": {**VALUES["nmi"], "failClosed": False}}
WITHOUT_NMI: Final[dict[str, Any]] = {"nodeSelector": {"no-node": "has-this"}}
INSTANCE: Final = "/metadata/instance?api-version=2021-02-01"
COUNTED: Final = """
table ip counted {
    chain prerouting {
        type filter hook prerouting priority -300
        ip saddr 10.244.0.0/16 ip daddr 10.98.0.0/16 counter
    }
}
"""
"""A rule that counts the packets of pods to the API server."""
SECONDS: Final = 60
REQUEST_SECONDS: Final = 3.0
RESTARTS: Final = 6
"""Some restarts of Cilium's agent lose the redirect, or NMI's exemption from it."""
STARTS: Final = 8
"""In 4 of 17 starts a request came in the moment before NMI's exemption."""
START_SECONDS: Final = 20
OUTAGE_SECONDS: Final = 8
REPAIR_SECONDS: Final = 120
ROLLOUT_SECONDS: Final = 5.0
LOOP_SECONDS: Final = 5.0
"""A request that comes back to NMI is refused long before any time limit."""


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """A node with Cilium, the chart with the backend `cilium`, and two pods: `managed` and `principal`."""
    with Bed(Options(cilium="ebpf")) as started:
        started.install(VALUES)
        principal = started.azure.call(lambda emulator: emulator.directory.add_principal())
        started.apply(
            *manifests.principal(principal),
            *manifests.demo(),
            manifests.pod("principal", selector="principal"),
            manifests.pod("managed", selector=DEMO_IDENTITY),
        )
        started.wait_for_pods("principal", "managed")
        client.eventually(started, "principal", principal.client_id)
        client.eventually(started, "managed", DEMO_IDENTITY)
        yield started


def _select_nodes(bed: Bed, spec: dict[str, Any]) -> None:
    patch = json.dumps({"spec": {"template": {"spec": spec}}})
    bed.kubectl("patch", NMI, f"--namespace={NAMESPACE}", "--type=merge", f"--patch={patch}")


def status(bed: Bed) -> int:
    """Return the status of a pod's request that IMDS would answer; 0 without a response."""
    return client.request(bed, "principal", INSTANCE, seconds=REQUEST_SECONDS).status


def _fetched(bed: Bed) -> int:
    """Return the status of a token request for which NMI must call IMDS; 0 without a response."""
    path = client.token_path(f"https://{time.monotonic_ns()}.example")
    return client.request(bed, "managed", path, seconds=REQUEST_SECONDS).status


def test_verify_proves_that_nmi_receives_requests_from_the_pods_own_addresses(bed: Bed) -> None:
    assert client.verified(bed) == (0, {bed.nodes[0].name: "nmi"})


def test_a_rule_of_netfilter_sees_no_packet_of_a_pod(bed: Bed) -> None:
    node = bed.nodes[0]
    node.run("sh", "-c", f"echo '{COUNTED}' | nft --file -")
    try:
        code = "import socket; socket.create_connection(('10.98.0.1', 6443), 5)"
        bed.kubectl("exec", "principal", "--", "python3", "-c", code)
        assert "counter packets 0 bytes 0" in node.run("nft", "list", "table", "ip", "counted")
    finally:
        node.run("nft", "delete", "table", "ip", "counted")


def test_nmis_own_requests_reach_imds_from_its_own_address(bed: Bed) -> None:
    begin = time.time()
    assert client.request(bed, "managed", client.token_path("https://management.azure.com")).status == 200
    assert status(bed) == 200
    (address,) = {pod["status"]["podIP"] for pod in bed.nmi_pods()}
    sent = bed.azure.requests(begin)
    assert {(request.peer, request.from_nmi) for request in sent} == {(address, True)}
    assert any(request.path.startswith(client.TOKEN) for request in sent)


def test_programs_of_the_node_reach_nmi_which_refuses_them(bed: Bed) -> None:
    begin = time.time()
    url = f"http://{METADATA_ADDRESS}{client.TOKEN}?resource=r"
    done = bed.nodes[0].done("curl", "--silent", "--include", "--header", "Metadata: true", url)
    assert "No pod is known at this address." in done.stdout
    assert bed.azure.requests(begin) == []


def test_pods_that_start_later_get_tokens(bed: Bed) -> None:
    bed.apply(manifests.pod("later", selector=DEMO_IDENTITY))
    try:
        bed.wait_for_pods("later")
        client.eventually(bed, "later", DEMO_IDENTITY)
    finally:
        bed.kubectl("delete", "pod/later", "--grace-period=0", "--force")


def test_an_egress_policy_must_permit_the_port_of_nmis_pods(bed: Bed) -> None:
    policy: dict[str, Any] = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "egress", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "principal"}}, "policyTypes": ["Egress"], "egress": []},
    }
    bed.apply(policy)
    try:
        wait_for(lambda: status(bed) == 0, SECONDS, "the policy has no effect")
        nmi = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/component": "nmi"}}}
        policy["spec"]["egress"] = [{"to": [nmi], "ports": [{"port": 2579, "protocol": "TCP"}]}]
        bed.apply(policy)
        wait_for(lambda: status(bed) == 200, SECONDS, "the policy permits no request")
    finally:
        bed.kubectl("delete", "networkpolicy/egress")


def test_a_request_of_nmi_that_comes_back_is_refused_immediately_with_the_next_action(bed: Bed) -> None:
    policies = bed.objects("ciliumlocalredirectpolicies", f"--namespace={NAMESPACE}")
    (policy,) = (policy for policy in policies if policy["spec"].get("skipRedirectFromBackend"))
    _replace(bed, {**policy, "spec": {**policy["spec"], "skipRedirectFromBackend": False}})
    try:
        path = "/metadata/instance/compute?api-version=2021-02-01"
        wait_for(lambda: client.request(bed, "principal", path).status == 503, SECONDS, "no request comes back")
        begin, at = time.monotonic(), time.time()
        for refused in (
            client.request(bed, "principal", "/metadata/instance/network?api-version=2021-02-01"),
            client.request(bed, "managed", client.token_path("looped")),
        ):
            assert (refused.status, "came back to NMI" in refused.body) == (503, True), refused.body
        assert time.monotonic() - begin < LOOP_SECONDS
        assert bed.azure.requests(at) == []
        logged = bed.kubectl("logs", bed.nmi_pod(), f"--namespace={NAMESPACE}")
        assert "set skipRedirectFromBackend: true" in logged
    finally:
        _replace(bed, *policies)
        wait_for(lambda: status(bed) == 200, SECONDS, "no instance metadata")
        client.eventually(bed, "managed", DEMO_IDENTITY)


def _replace(bed: Bed, *policies: dict[str, Any]) -> None:
    """Replace all local redirect policies, and then NMI's pod: Cilium refuses changes, and keeps exemptions of pods."""
    bed.kubectl("delete", "ciliumlocalredirectpolicies", "--all", f"--namespace={NAMESPACE}")
    _create(bed, *policies)
    bed.roll_out_nmi()


def _create(bed: Bed, *policies: dict[str, Any]) -> None:
    kept = ("name", "namespace", "labels", "annotations")
    bed.apply(*({**policy, "metadata": {name: policy["metadata"][name] for name in kept}} for policy in policies))


def test_a_rollout_interrupts_requests_for_some_seconds_at_most(bed: Bed) -> None:
    bed.apply(manifests.prober("prober", selector=DEMO_IDENTITY))
    scenarios = Scenarios(bed)

    def good_since(at: float) -> int:
        return sum(probe.outcome == TOKEN for probe in scenarios.probes("prober", at))

    try:
        wait_for(lambda: good_since(0.0), SECONDS, "no token")
        begin = time.time()
        bed.roll_out_nmi()
        end = time.time()
        wait_for(lambda: good_since(end) >= GOOD_PROBES, SECONDS, "no token after the rollout")
        assert interruption(scenarios.probes("prober", begin), TOKEN) < ROLLOUT_SECONDS
        assert bed.azure.leaked(begin) == []
    finally:
        bed.kubectl("delete", "pod/prober", "--grace-period=0", "--force")


def test_nmi_is_not_ready_while_the_redirect_is_missing_and_serves_when_it_returns(bed: Bed) -> None:
    begin = time.time()
    policies = bed.objects("ciliumlocalredirectpolicies", f"--namespace={NAMESPACE}")
    bed.kubectl("delete", "ciliumlocalredirectpolicies", "--all", f"--namespace={NAMESPACE}")
    try:
        wait_for(lambda: not is_ready(bed.nmi_pods()[0]), SECONDS, "NMI is still Ready")
        assert "Cilium has lost the redirect" in bed.kubectl("logs", bed.nmi_pod(), f"--namespace={NAMESPACE}")
        assert bed.azure.leaked(begin) == []
    finally:
        _create(bed, *policies)
    wait_for(lambda: _fetched(bed) == 200, REPAIR_SECONDS, "the redirect is not back")
    wait_for(lambda: is_ready(bed.nmi_pods()[0]), SECONDS, "NMI is not Ready")


def test_what_restarts_of_the_agent_and_an_outage_of_the_api_server_lose_is_restored(bed: Bed) -> None:
    begin = time.time()
    for number in range(RESTARTS):
        bed.nodes[0].cilium.stop()
        if number == 0:
            bed.plane.stop(signal.SIGKILL)
            time.sleep(OUTAGE_SECONDS)
            bed.plane.start()
        bed.nodes[0].start_cilium()
        time.sleep(3)
        wait_for(lambda: _fetched(bed) == 200, REPAIR_SECONDS, "NMI did not restore the redirect")
    assert bed.azure.leaked(begin) == []


def test_no_request_reaches_imds_when_nmi_is_killed(bed: Bed) -> None:
    begin, killed = time.time(), bed.nmi_pid()
    bed.kill_nmi()
    # The pod sends a request in each pass, also while no NMI runs.
    wait_for(lambda: status(bed) == 200 and bed.nmi_pids() not in ([], [killed]), SECONDS, "NMI does not serve again")
    assert bed.azure.leaked(begin) == []
    assert client.verified(bed)[1] == {bed.nodes[0].name: "nmi"}


def test_no_request_reaches_imds_while_no_nmi_runs(bed: Bed) -> None:
    _select_nodes(bed, WITHOUT_NMI)
    try:
        wait_for(lambda: not bed.nmi_pids(), SECONDS, "NMI still runs")
        begin = time.time()
        wait_for(lambda: status(bed) == 0, SECONDS, "a pod still gets an answer")
        assert [status(bed) for _ in range(3)] == [0, 0, 0]
        assert bed.azure.leaked(begin) == []
    finally:
        _select_nodes(bed, {"nodeSelector": None})
        bed.wait_for_nmi()
        wait_for(lambda: status(bed) == 200, SECONDS, "the redirect is not back")


def test_each_new_nmi_serves_although_cilium_creates_its_exemption_after_the_redirect(bed: Bed) -> None:
    for _ in range(STARTS):
        _select_nodes(bed, WITHOUT_NMI)
        wait_for(lambda: not bed.nmi_pids() and status(bed) == 0, SECONDS, "NMI still serves")
        _select_nodes(bed, {"nodeSelector": None})
        wait_for(bed.nmi_pids, SECONDS, "no NMI")
        # Requests without a pause find the moment between the two.
        wait_for(lambda: status(bed) == 200, START_SECONDS, "NMI does not serve")


def test_without_fail_closed_requests_reach_imds_while_no_nmi_runs(bed: Bed) -> None:
    bed.install(OPEN, command="upgrade")
    try:
        _select_nodes(bed, WITHOUT_NMI)
        begin = time.time()
        wait_for(lambda: status(bed) == 200 and bed.azure.leaked(begin), SECONDS, "no pod reached IMDS")
    finally:
        _select_nodes(bed, {"nodeSelector": None})
        bed.install(VALUES, command="upgrade")


def test_the_redirect_stays_while_the_agent_is_not_running(bed: Bed) -> None:
    begin = time.time()
    bed.nodes[0].cilium.stop()
    try:
        assert client.token(bed, "principal").status == 200
    finally:
        bed.nodes[0].start_cilium()
    assert bed.azure.leaked(begin) == []
