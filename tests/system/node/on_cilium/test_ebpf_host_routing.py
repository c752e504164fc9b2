"""The redirect backend `cilium` on a node where a Cilium agent routes pods' packets past netfilter."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, identity_id
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.system.node import client
from tests.system.node.bed import NAMESPACE, NMI, NMI_LABELS, Bed
from tests.system.node.manifests import binding, identity, pod, prober
from tests.system.node.options import Options
from tests.system.node.podidctl_commands import verified
from tests.system.node.processes import wait_for

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
COMPONENT: Final = {"app.kubernetes.io/component": "nmi"}
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
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "principal", "namespace": "default"},
                "stringData": {"clientSecret": principal.secret},
            },
            identity(
                "principal",
                "",
                principal.client_id,
                type=1,
                tenantID=principal.tenant_id,
                clientPassword={"name": "principal", "namespace": "default"},
            ),
            identity(DEMO_IDENTITY, identity_id(DEMO_IDENTITY), DEMO_CLIENT_ID),
            binding("principal"),
            binding(DEMO_IDENTITY),
            pod("principal", ["sleep", "3600"], labels={"aadpodidbinding": "principal"}),
            pod("managed", ["sleep", "3600"], labels={"aadpodidbinding": DEMO_IDENTITY}),
        )
        started.kubectl("wait", "--for=condition=Ready", "pod/principal", "pod/managed", f"--timeout={SECONDS}s")
        client.eventually(started, "principal", principal.client_id)
        client.eventually(started, "managed", DEMO_IDENTITY)
        yield started


@pytest.fixture
def without_nmi(bed: Bed) -> Iterator[Bed]:
    """The node while no NMI runs on it."""
    _select_nodes(bed, WITHOUT_NMI)
    wait_for(lambda: not bed.nmi_pids(), SECONDS, "NMI still runs")
    yield bed
    _select_nodes(bed, {"nodeSelector": None})
    bed.wait_for_nmi()
    wait_for(lambda: status(bed) == 200, SECONDS, "the redirect is not back")


def _select_nodes(bed: Bed, spec: dict[str, Any]) -> None:
    patch = json.dumps({"spec": {"template": {"spec": spec}}})
    name = bed.objects("daemonsets", f"--namespace={NAMESPACE}", f"--selector={NMI_LABELS}")[0]["metadata"]["name"]
    bed.kubectl("patch", f"daemonset/{name}", f"--namespace={NAMESPACE}", "--type=merge", f"--patch={patch}")


def leaked(bed: Bed, since: float) -> list[str]:
    """Return the paths of the requests of pods that reached IMDS."""
    return [each.path for each in bed.azure.requests(since) if each.leaked]


def status(bed: Bed) -> int:
    """Return the status of a pod's request that IMDS would answer; 0 without an answer."""
    return client.request(bed, "principal", INSTANCE, seconds=REQUEST_SECONDS).status


def test_verify_proves_that_nmi_receives_requests_from_the_pods_own_addresses(bed: Bed) -> None:
    code, answered_by = verified(bed)
    assert (code, set(answered_by.values())) == (0, {"nmi"})


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
    parameters = "?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com"
    assert client.request(bed, "managed", f"{client.TOKEN}{parameters}").status == 200
    assert status(bed) == 200
    (address,) = {each["status"]["podIP"] for each in bed.nmi_pods()}
    sent = bed.azure.requests(begin)
    assert {(each.peer, each.from_nmi) for each in sent} == {(address, True)}
    assert any(each.path.startswith(client.TOKEN) for each in sent)


def test_programs_of_the_node_reach_nmi_which_refuses_them(bed: Bed) -> None:
    begin = time.time()
    answer = bed.nodes[0].done(
        "curl",
        "--silent",
        "--include",
        "--header",
        "Metadata: true",
        f"http://{METADATA_ADDRESS}{client.TOKEN}?resource=r",
    )
    assert "No pod is known at this address." in answer.stdout
    assert bed.azure.requests(begin) == []


def test_pods_that_start_later_get_tokens(bed: Bed) -> None:
    bed.apply(pod("later", ["sleep", "3600"], labels={"aadpodidbinding": DEMO_IDENTITY}))
    try:
        bed.kubectl("wait", "--for=condition=Ready", "pod/later", f"--timeout={SECONDS}s")
        client.eventually(bed, "later", DEMO_IDENTITY)
    finally:
        bed.kubectl("delete", "pod/later", "--grace-period=0", "--force")


def test_an_egress_policy_must_permit_the_port_of_nmis_pods(bed: Bed) -> None:
    bed.apply(egress())
    try:
        wait_for(lambda: status(bed) == 0, SECONDS, "the policy has no effect")
        bed.apply(egress({"namespaceSelector": {}, "podSelector": {"matchLabels": COMPONENT}}))
        wait_for(lambda: status(bed) == 200, SECONDS, "the policy permits no request")
    finally:
        bed.kubectl("delete", "networkpolicy/egress")


def test_a_request_of_nmi_that_comes_back_is_refused_immediately_with_the_next_action(bed: Bed) -> None:
    policies = bed.objects("ciliumlocalredirectpolicies", f"--namespace={NAMESPACE}")
    (policy,) = (each for each in policies if each["spec"].get("skipRedirectFromBackend"))
    _replace(bed, {**policy, "spec": {**policy["spec"], "skipRedirectFromBackend": False}})
    try:
        path = "/metadata/instance/compute?api-version=2021-02-01"
        wait_for(lambda: client.request(bed, "principal", path).status == 503, SECONDS, "no request comes back")
        begin, at = time.monotonic(), time.time()
        for refused in (
            client.request(bed, "principal", "/metadata/instance/network?api-version=2021-02-01"),
            client.request(bed, "managed", f"{client.TOKEN}?api-version=2018-02-01&resource=looped"),
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
    bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
    bed.wait_for_nmi()


def _create(bed: Bed, *policies: dict[str, Any]) -> None:
    kept = ("name", "namespace", "labels", "annotations")
    bed.apply(*({**each, "metadata": {name: each["metadata"][name] for name in kept}} for each in policies))


def egress(*allowed: dict[str, Any]) -> dict[str, Any]:
    """Return a policy for the pod `principal` that permits NMI's port of the *allowed* peers."""
    rules = [{"to": list(allowed), "ports": [{"port": 2579, "protocol": "TCP"}]}] if allowed else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "egress", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"aadpodidbinding": "principal"}},
            "policyTypes": ["Egress"],
            "egress": rules,
        },
    }


def test_a_rollout_interrupts_requests_for_some_seconds_at_most(bed: Bed) -> None:
    bed.apply(prober("prober", selector=DEMO_IDENTITY))
    try:
        bed.kubectl("wait", "--for=condition=Ready", "pod/prober", f"--timeout={SECONDS}s")
        wait_for(lambda: "token" in bed.kubectl("logs", "prober", "--tail=1"), SECONDS, "no token")
        begin = time.time()
        bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
        bed.wait_for_nmi()
        time.sleep(5)
        lines = [json.loads(line) for line in bed.kubectl("logs", "prober").splitlines()]
        good = [each["at"] + each["seconds"] for each in lines if each["outcome"] == f"token {DEMO_IDENTITY}"]
        gaps = [later - earlier for earlier, later in pairwise(good) if later > begin]
        bad = [each for each in lines if each["at"] > begin and not each["outcome"].startswith("token")]
        print(f"longest gap {max(gaps):.2f} s, {len(bad)} failed requests: {bad[:5]}", file=sys.stderr)  # noqa: T201
        assert max(gaps) < ROLLOUT_SECONDS, bad
        assert leaked(bed, begin) == []
    finally:
        bed.kubectl("delete", "pod/prober", "--grace-period=0", "--force")


def test_nmi_is_not_ready_while_the_redirect_is_missing_and_serves_when_it_returns(bed: Bed) -> None:
    begin = time.time()
    policies = bed.objects("ciliumlocalredirectpolicies", f"--namespace={NAMESPACE}")
    bed.kubectl("delete", "ciliumlocalredirectpolicies", "--all", f"--namespace={NAMESPACE}")
    try:
        wait_for(lambda: not _ready(bed), SECONDS, "NMI is still Ready")
        assert "Cilium has lost the redirect" in bed.kubectl("logs", bed.nmi_pod(), f"--namespace={NAMESPACE}")
        assert leaked(bed, begin) == []
    finally:
        _create(bed, *policies)
    wait_for(lambda: _fetched(bed) == 200, REPAIR_SECONDS, "the redirect is not back")
    wait_for(lambda: _ready(bed), SECONDS, "NMI is not Ready")


def _ready(bed: Bed) -> bool:
    (pod,) = bed.nmi_pods()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])


def test_what_restarts_of_the_agent_and_an_outage_of_the_api_server_lose_is_restored(bed: Bed) -> None:
    begin = time.time()
    for number in range(RESTARTS):
        bed.nodes[0].cilium.stop()
        if number == 0:
            bed.plane.stop(signal.SIGKILL)
            time.sleep(OUTAGE_SECONDS)
            bed.plane.start()
        bed.nodes[0].restart_cilium()
        time.sleep(3)
        found, at = _fetched(bed), time.monotonic()
        wait_for(lambda: _fetched(bed) == 200, REPAIR_SECONDS, f"status {found}: NMI did not restore the redirect")
        if found != 200:
            print(f"status {found}, restored after {time.monotonic() - at:.0f} s", file=sys.stderr)  # noqa: T201
    assert leaked(bed, begin) == []


def _fetched(bed: Bed) -> int:
    """Return the status of a token request for which NMI must call IMDS; 0 without an answer."""
    resource = f"https://{time.monotonic_ns()}.example"
    path = f"{client.TOKEN}?api-version=2018-02-01&resource={resource}"
    return client.request(bed, "managed", path, seconds=REQUEST_SECONDS).status


def test_no_request_reaches_imds_when_nmi_is_killed(bed: Bed) -> None:
    begin = time.time()
    bed.nodes[0].run("kill", "-KILL", str(bed.nmi_pid()))
    end = time.monotonic() + 20
    while time.monotonic() < end:
        status(bed)
    assert leaked(bed, begin) == []
    _, answered_by = verified(bed)
    assert set(answered_by.values()) == {"nmi"}


def test_no_request_reaches_imds_while_no_nmi_runs(without_nmi: Bed) -> None:
    begin = time.time()
    wait_for(lambda: status(without_nmi) == 0, SECONDS, "a pod still gets an answer")
    assert [status(without_nmi) for _ in range(3)] == [0, 0, 0]
    assert leaked(without_nmi, begin) == []


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
        wait_for(lambda: status(bed) == 200 and leaked(bed, begin), SECONDS, "no pod reached IMDS")
    finally:
        _select_nodes(bed, {"nodeSelector": None})
        bed.install(VALUES, command="upgrade")


def test_the_redirect_stays_while_the_agent_is_not_running(bed: Bed) -> None:
    begin = time.time()
    bed.nodes[0].cilium.stop()
    try:
        assert client.token(bed, "principal").status == 200
    finally:
        bed.nodes[0].restart_cilium()
    assert leaked(bed, begin) == []
