"""Values of nmi.redirect: flags, Cilium's policies, and the combinations that cannot work."""

from typing import Any

import pytest

from podidentity.resources import BINDING_LABEL
from tests.deploy.helm_cluster import arguments_of
from tests.deploy.helms import HELMS
from tools.chart.rendering import Object, render

CILIUM = "--set=nmi.redirect.backend=cilium,nmi.handover.enabled=false"


def flags(*options: str) -> set[str]:
    return {each for each in arguments_of(render(options=options), "nmi") if "redirect" in each or "fail" in each}


def of_cilium(*options: str, helm: str = "helm") -> dict[str, Object]:
    """Return Cilium's policies, by the part of the name after the DaemonSet's."""
    found = [each for each in render(options=options, helm=helm) if each["apiVersion"].startswith("cilium.io/")]
    return {each["metadata"]["name"].removeprefix("aad-pod-identity-nmi").strip("-"): each for each in found}


def daemon_set(*options: str) -> dict[str, Any]:
    (found,) = (
        each
        for each in render(options=options)
        if each["kind"] == "DaemonSet" and each["metadata"]["name"].endswith("-nmi")
    )
    return dict(found["spec"]["template"]["spec"])


def test_by_default_nmi_chooses_and_no_policy_is_created() -> None:
    assert flags() == {"--fail-closed=true"}
    assert of_cilium() == {}


@pytest.mark.parametrize("backend", ["iptables-legacy", "iptables-nft", "nftables"])
@pytest.mark.parametrize("target", ["auto", "loopback", "node"])
def test_backend_and_target_become_flags(backend: str, target: str) -> None:
    found = flags(f"--set=nmi.redirect.backend={backend},nmi.redirect.target={target}")
    wanted = {f"--redirect={backend}", "--fail-closed=true"}
    assert found == wanted | ({f"--redirect-target={target}"} if target != "auto" else set())


@pytest.mark.parametrize("helm", HELMS)
def test_cilium_redirects_the_metadata_address_to_the_pods_of_nmi(helm: str) -> None:
    policies = of_cilium(CILIUM, helm=helm)
    redirect = policies[""]
    assert (redirect["kind"], redirect["metadata"]["namespace"]) == ("CiliumLocalRedirectPolicy", "podid")
    frontend = redirect["spec"]["redirectFrontend"]["addressMatcher"]
    assert frontend == {"ip": "169.254.169.254", "toPorts": [{"port": "80", "protocol": "TCP"}]}
    assert redirect["spec"]["skipRedirectFromBackend"] is True, "NMI's own requests reach IMDS"
    backend = redirect["spec"]["redirectBackend"]
    assert backend["toPorts"] == [{"port": "2579", "protocol": "TCP"}]
    labels = backend["localEndpointSelector"]["matchLabels"]
    selecting = {
        each["metadata"]["name"]
        for each in render(options=[CILIUM], helm=helm)
        if labels.items() <= template_labels(each).items()
    }
    assert selecting == {"aad-pod-identity-nmi"}


def template_labels(each: Object) -> dict[str, str]:
    """Return the labels of the pod, or of the pods that a workload creates."""
    if each["kind"] == "Pod":
        return dict(each["metadata"]["labels"])
    template = (each.get("spec") or {}).get("template") or {}
    return dict(template.get("metadata", {}).get("labels", {}))


def test_cilium_redirects_to_another_port_of_nmi() -> None:
    policies = of_cilium(CILIUM, "--set=nmi.extraArgs={--nmi-port=4000}")
    assert policies[""]["spec"]["redirectBackend"]["toPorts"][0]["port"] == "4000"
    assert policies["check"]["spec"]["redirectFrontend"]["addressMatcher"]["toPorts"][0]["port"] == "4000"


def test_nmi_can_check_the_redirect_at_its_own_port_of_the_metadata_address() -> None:
    policies = of_cilium(CILIUM)
    check = policies["check"]
    assert (check["kind"], check["metadata"]["namespace"]) == ("CiliumLocalRedirectPolicy", "podid")
    frontend = check["spec"]["redirectFrontend"]["addressMatcher"]
    assert frontend == {"ip": "169.254.169.254", "toPorts": [{"port": "2579", "protocol": "TCP"}]}
    assert check["spec"]["redirectBackend"] == policies[""]["spec"]["redirectBackend"]
    assert "skipRedirectFromBackend" not in check["spec"], "NMI reaches itself"


def test_with_cilium_nmi_mounts_nothing_of_the_node_that_it_writes() -> None:
    spec = daemon_set(CILIUM)
    (container,) = spec["containers"]
    assert [each["name"] for each in spec["volumes"] if "hostPath" in each] == ["kubelet-config"]
    assert {each["name"] for each in container["volumeMounts"]} == {"kubelet-config", "tmp"}
    assert "--address-evidence=false" in container["args"], "its interfaces show nothing about other pods"
    assert "--address-evidence=false" not in arguments_of(render(), "nmi")


def test_mics_policy_permits_nmi_in_place_of_imds() -> None:
    egress = "--set=networkPolicy.enabled=true,networkPolicy.egress[0].ports[0].port=443"

    def ports(*options: str) -> list[int]:
        (policy,) = (each for each in render(options=[egress, *options]) if each["kind"] == "NetworkPolicy")
        return [each["ports"][0]["port"] for each in policy["spec"]["egress"]]

    assert ports() == [443]
    assert ports(CILIUM) == [443, 2579]


def test_with_cilium_a_policy_fails_closed_instead_of_a_rule() -> None:
    assert flags(CILIUM) == {"--redirect=cilium"}
    policy = of_cilium(CILIUM)["fail-closed"]
    assert policy["kind"] == "CiliumClusterwideNetworkPolicy"
    for spec in policy["specs"]:
        assert spec["enableDefaultDeny"] == {"egress": False, "ingress": False}
        (denied,) = spec["egressDeny"]
        assert denied["toCIDR"] == ["169.254.169.254/32"]
        assert denied["toPorts"] == [{"ports": [{"port": "80", "protocol": "TCP"}]}]
        assert spec.keys() == {"description", "endpointSelector", "enableDefaultDeny", "egressDeny"}


@pytest.mark.parametrize(
    ("namespace", "labels", "denied"),
    [
        ("podid", {"app.kubernetes.io/component": "nmi"}, False),
        ("podid", {"app.kubernetes.io/component": "mic"}, True),
        ("podid", {}, True),
        ("tenant", {}, True),
        ("tenant", {"app.kubernetes.io/component": "nmi"}, True),
    ],
)
def test_the_policy_exempts_nmi_and_no_pod_that_a_tenant_labels_like_it(
    namespace: str, labels: dict[str, str], denied: bool
) -> None:
    own = {"k8s:io.kubernetes.pod.namespace": namespace} | {f"k8s:{name}": text for name, text in labels.items()}

    def selects(selector: dict[str, Any]) -> bool:
        assert selector.keys() == {"matchExpressions"}
        return all(
            (own.get(each["key"]) in each["values"]) is (each["operator"] == "In")
            for each in selector["matchExpressions"]
        )

    specs = of_cilium(CILIUM)["fail-closed"]["specs"]
    assert any(selects(each["endpointSelector"]) for each in specs) is denied


def test_without_fail_closed_there_is_no_such_policy() -> None:
    assert of_cilium(CILIUM, "--set=nmi.failClosed=false").keys() == {"", "check"}


def test_a_flag_in_the_extra_arguments_is_used_as_before() -> None:
    assert flags("--set=nmi.extraArgs={--redirect=none}") == {"--redirect=none"}
    assert flags("--set=nmi.extraArgs={--redirect-target=node}") == {"--redirect-target=node", "--fail-closed=true"}


def test_nothing_of_cilium_selects_by_a_binding() -> None:
    assert BINDING_LABEL not in str(of_cilium(CILIUM))
