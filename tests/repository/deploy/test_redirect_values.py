"""Values of NMI's node: nmi.redirect with its flags and Cilium's policies, nmi.bootGuard and nmi.handover."""

from typing import Any

import pytest

from podidentity.resources import BINDING_LABEL
from tests.repository.deploy.helm_cluster import arguments_of
from tests.repository.deploy.helms import HELMS
from tools.chart.rendering import Object, render

CILIUM = "--set=nmi.redirect.backend=cilium,nmi.handover.enabled=false"
GUARD = "--set=nmi.bootGuard=true"
UNITS = "/etc/systemd/system"
MONITORED = "--set=podMonitor.enabled=true,serviceMonitor.enabled=true,nmi.prometheusPort=9099"


def of_cilium(*options: str, helm: str = "helm") -> dict[str, Object]:
    """Return Cilium's policies, by the part of the name after the DaemonSet's."""
    found = [each for each in render(options=options, helm=helm) if each["apiVersion"].startswith("cilium.io/")]
    return {each["metadata"]["name"].removeprefix("aad-pod-identity-nmi").strip("-"): each for each in found}


def pods_of(*options: str, helm: str = "helm") -> dict[str, Any]:
    """Return the specification of each workload's pods, by the part of the name after the chart's."""
    return {
        each["metadata"]["name"].removeprefix("aad-pod-identity-"): each["spec"]["template"]["spec"]
        for each in render(options=options, helm=helm)
        if each["kind"] in {"DaemonSet", "Deployment"}
    }


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ((), {"--fail-closed=true"}),
        *(
            ((f"--set=nmi.redirect.backend={backend}",), {f"--redirect={backend}", "--fail-closed=true"})
            for backend in ("iptables-legacy", "iptables-nft", "nftables")
        ),
        *(
            ((f"--set=nmi.redirect.target={target}",), {f"--redirect-target={target}", "--fail-closed=true"})
            for target in ("loopback", "node")
        ),
        (("--set=nmi.redirect.target=auto",), {"--fail-closed=true"}),
        (("--set=nmi.extraArgs={--redirect=none}",), {"--redirect=none"}),
        (("--set=nmi.extraArgs={--redirect-target=node}",), {"--redirect-target=node", "--fail-closed=true"}),
        ((CILIUM,), {"--redirect=cilium"}),
    ],
    ids=lambda words: " ".join(sorted(words)) or "defaults",
)
def test_backend_and_target_become_flags_which_the_extra_arguments_replace(
    options: tuple[str, ...], flags: set[str]
) -> None:
    found = arguments_of(render(options=options), "nmi")
    assert {each for each in found if "redirect" in each or "fail" in each} == flags


def template_labels(each: Object) -> dict[str, str]:
    """Return the labels of the pod, or of the pods that a workload creates."""
    if each["kind"] == "Pod":
        return dict(each["metadata"]["labels"])
    template = (each.get("spec") or {}).get("template") or {}
    return dict(template.get("metadata", {}).get("labels", {}))


@pytest.mark.parametrize("helm", HELMS)
def test_cilium_redirects_the_metadata_address_to_the_pods_of_nmi(helm: str) -> None:
    assert of_cilium() == {}
    policies = of_cilium(CILIUM, helm=helm)
    assert BINDING_LABEL not in str(policies), "nothing of Cilium selects by a binding"
    redirect, check = policies[""], policies["check"]
    for policy, port in ((redirect, "80"), (check, "2579")):
        assert (policy["kind"], policy["metadata"]["namespace"]) == ("CiliumLocalRedirectPolicy", "podid")
        frontend = policy["spec"]["redirectFrontend"]["addressMatcher"]
        assert frontend == {"ip": "169.254.169.254", "toPorts": [{"port": port, "protocol": "TCP"}]}
    assert redirect["spec"]["skipRedirectFromBackend"] is True, "NMI's own requests reach IMDS"
    assert "skipRedirectFromBackend" not in check["spec"], "NMI reaches itself"
    backend = redirect["spec"]["redirectBackend"]
    assert check["spec"]["redirectBackend"] == backend
    assert backend["toPorts"] == [{"port": "2579", "protocol": "TCP"}]
    labels = backend["localEndpointSelector"]["matchLabels"]
    selecting = {
        each["metadata"]["name"]
        for each in render(options=[CILIUM], helm=helm)
        if labels.items() <= template_labels(each).items()
    }
    assert selecting == {"aad-pod-identity-nmi"}


def test_cilium_redirects_to_another_port_of_nmi() -> None:
    policies = of_cilium(CILIUM, "--set=nmi.extraArgs={--nmi-port=4000}")
    assert policies[""]["spec"]["redirectBackend"]["toPorts"][0]["port"] == "4000"
    assert policies["check"]["spec"]["redirectFrontend"]["addressMatcher"]["toPorts"][0]["port"] == "4000"


def test_with_cilium_nmi_mounts_nothing_of_the_node_that_it_writes() -> None:
    spec = pods_of(CILIUM)["nmi"]
    (container,) = spec["containers"]
    assert [each["name"] for each in spec["volumes"] if "hostPath" in each] == ["kubelet-config"]
    assert {each["name"] for each in container["volumeMounts"]} == {"kubelet-config", "tmp"}
    assert "--address-evidence=false" in container["args"], "its interfaces show nothing about other pods"
    assert "--address-evidence=false" not in arguments_of(render(), "nmi")


def test_mics_policy_permits_nmi_in_place_of_imds() -> None:
    egress = "--set=networkPolicy.enabled=true,networkPolicy.egress[0].ports[0].port=443"
    for options, ports in (([egress], [443]), ([egress, CILIUM], [443, 2579])):
        (policy,) = (each for each in render(options=options) if each["kind"] == "NetworkPolicy")
        assert [each["ports"][0]["port"] for each in policy["spec"]["egress"]] == ports


def test_with_cilium_a_policy_fails_closed_instead_of_a_rule() -> None:
    assert of_cilium(CILIUM, "--set=nmi.failClosed=false").keys() == {"", "check"}
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


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in [*pod.get("initContainers", []), *pod["containers"]]}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("options", "seeing"),
    [((), {}), ((GUARD,), {"nmi": ["boot-guard"], "cleanup": ["cleanup"]})],
    ids=["by default", "with the boot guard"],
)
def test_only_the_containers_of_the_boot_guard_see_the_nodes_units(
    helm: str, options: tuple[str, ...], seeing: dict[str, list[str]]
) -> None:
    found = {}
    for name, pod in pods_of(*options, helm=helm).items():
        mounting = [
            each["name"]
            for each in containers(pod).values()
            if any(mount["name"] == "systemd" for mount in each.get("volumeMounts", []))
        ]
        paths = [each.get("hostPath", {}).get("path") for each in pod.get("volumes", [])]
        assert (UNITS in paths) is bool(mounting)
        if mounting:
            found[name] = mounting
    assert found == seeing


def test_one_container_installs_the_unit_and_one_removes_it() -> None:
    pods = pods_of(GUARD, "--set=nmi.extraArgs={--metadata-ip=169.254.1.1}")
    guard = containers(pods["nmi"])["boot-guard"]
    assert guard["args"] == [
        "--boot-guard=install",
        f"--systemd-directory=/host{UNITS}",
        "--node=$(NODE_NAME)",
        "--kubelet-config=/etc/default/kubelet",
        "--metadata-ip=169.254.1.1",
    ]
    assert [each["name"] for each in guard["env"]] == ["NODE_NAME"]
    mounts = {each["mountPath"]: each.get("readOnly", False) for each in guard["volumeMounts"]}
    assert mounts == {f"/host{UNITS}": False, "/etc/default/kubelet": True}
    assert guard["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert f"--systemd-directory=/host{UNITS}" in containers(pods["cleanup"])["cleanup"]["args"]


def test_the_startup_probe_waits_for_the_signal_that_nmi_gives() -> None:
    """Two NMIs of a node fit next to each other. test_rendered_values.py has the update strategies."""
    pod = pods_of()["nmi"]
    (container,) = pod["containers"]
    *_, path, seconds = container["startupProbe"]["exec"]["command"]
    assert f"--start-signal={path}" in container["args"]
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == path.rpartition("/")[0]]
    (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
    assert "emptyDir" in volume, "the NMIs of a node must not share the signal"
    assert int(seconds) < container["startupProbe"]["timeoutSeconds"]


def test_no_host_port_prevents_the_second_pod() -> None:
    objects = render(options=[MONITORED])
    (container,) = pods_of(MONITORED)["nmi"]["containers"]
    assert "ports" not in container
    monitor = next(each for each in objects if each["kind"] == "PodMonitor" and "nmi" in each["metadata"]["name"])
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert "port" not in endpoint
    assert "$1:9099" in [each.get("replacement") for each in endpoint["relabelings"]]
    service = next(each for each in objects if each["metadata"]["name"].endswith("nmi-metrics"))
    assert [each["targetPort"] for each in service["spec"]["ports"]] == [9099]
    (alone,) = pods_of(MONITORED, "--set=nmi.handover.enabled=false")["nmi"]["containers"]
    assert [each["name"] for each in alone["ports"]] == ["metrics"]
    assert not any("handover" in each or "signal" in each for each in alone["args"])
