"""Checks of a cluster before the installation, and the chart values that it needs. Pure."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from podidctl.checks.cluster import check_clocks, check_version
from podidctl.checks.rules import findings_of
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.kinds import OS_LABEL
from podidctl.facts.model import ReadFailure, readable
from podidctl.preflight.state import CILIUM_GROUP, NMI_PORTS, ClusterState, Path
from podidctl.report.documents import CheckResult, check_result
from podidctl.report.finding import Finding, ok, problem, unknown, warning
from podidctl.report.text import listed
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.report import ReportModel, counted

OLDEST_MINOR: Final = 27
"""The oldest Kubernetes 1.x that the chart accepts (`kubeVersion` in Chart.yaml)."""
ARCHITECTURE_LABEL: Final = "kubernetes.io/arch"
MANAGED_LABEL: Final = ("kubernetes.azure.com/managedby", "aks")
"""Label of the objects of AKS's own add-ons."""
ENGINES: Final = {
    "constraints.gatekeeper.sh": "Gatekeeper (Azure Policy installs it)",
    "kyverno.io": "Kyverno",
}
"""Policy engines by their API group."""
NETWORKS: Final = {
    "azure-cns": "Azure CNI",
    "calico-node": "Calico",
    "cilium": "Cilium",
    "kube-flannel-ds": "Flannel",
    "kindnet": "kindnet",
}
"""Network plugins by their DaemonSet in kube-system."""
_BACKEND: Final = """\
# Pods' packets bypass netfilter: only Cilium itself can redirect them (docs/data-planes.md#cilium).
nmi:
  redirect:
    backend: cilium
  handover:
    enabled: false
"""
_IMAGES: Final = """\
# The registry to which you have pushed the images (docs/install-on-aks.md#images).
image:
  repository: {}
"""
_STATUS: Final = "kubectl exec -n kube-system daemonset/cilium -- cilium-dbg status --verbose | grep 'Host Routing'"


class Preflight(ReportModel, frozen=True):
    """The findings, and the chart values that the cluster needs."""

    findings: list[CheckResult]
    values: str
    """YAML with comments."""


def preflight(state: ClusterState) -> Preflight:
    """Return the result of all checks, and the values."""
    # JSON is YAML, and quotes what a repository may contain.
    images = _IMAGES.format(json.dumps(state.repository or "REGISTRY/PATH"))
    findings = [check_result(finding) for finding in findings_of(CHECKS, state)]
    return Preflight(findings, images + (_BACKEND if state.path is Path.BYPASSES else ""))


def check_server(state: ClusterState) -> Iterator[Finding]:
    """Check that the chart supports the server's version, and compare the clocks."""
    case = ClusterCase(state.facts)
    yield from check_version(case, OLDEST_MINOR, "is too old for the chart")
    yield from check_clocks(case)


def check_nodes(state: ClusterState) -> Iterator[Finding]:
    """Check that NMI can run on the nodes, and that MIC can attach identities to them."""
    nodes = ClusterCase.read("nodes", state.nodes)
    if not state.linux:
        yield problem("nodes", "the cluster has no Linux node that can run NMI", "add a Linux node pool")
        return
    architectures = Counter(node.metadata.label(ARCHITECTURE_LABEL) or "unknown" for node in state.linux)
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(architectures.items()))
    yield ok("nodes", f"{counted(len(state.linux), 'Linux node')} ({kinds}): build the images for these architectures")
    others = [node.metadata.name for node in nodes if not node.can_run_nmi]
    if others:
        windows = sum(node.metadata.label(OS_LABEL) == "windows" for node in nodes)
        message = (
            f"{counted(len(others), 'node')} without NMI ({windows} with Windows): {listed(others)}; pods there get "
            "the node's own identities from IMDS"
        )
        yield warning("nodes", message, "keep pods that need this project away from these nodes (nodeSelector)")
    outside = [node.metadata.name for node in state.linux if parse_provider_id(node.spec.provider_id) is None]
    if outside:
        message = f"{counted(len(outside), 'node')} whose providerID names no VM of Azure: {listed(outside)}"
        yield warning("nodes", message, "MIC can attach nothing to them: use identities of the types 1 to 3 there")


def check_data_plane(state: ClusterState) -> Iterator[Finding]:
    """Check the path of pods' packets, and name the network plugin."""
    check = "data plane"
    # Without these parts, the path would seem to be netfilter.
    ClusterCase.read(check, state.groups)
    ClusterCase.read(check, state.nodes)
    if state.path is Path.BYPASSES:
        yield from _check_redirect_policies(check, state)
    elif state.has_cilium and ClusterCase.read(check, state.cilium) is None:
        then = f"pods' packets may bypass netfilter; {_STATUS}"
        yield unknown(check, "Cilium's ConfigMap kube-system/cilium-config does not exist", then)
    elif state.path is Path.DEPENDS:
        message = "whether pods' packets pass netfilter depends on Cilium's version"
        then = f"{_STATUS}: with BPF set nmi.redirect.backend=cilium and nmi.handover.enabled=false"
        yield warning(check, message, then)
    elif state.has_cilium:
        message = "Cilium without eBPF host routing: pods' packets pass netfilter"
        yield ok(check, f"{message}; NMI may wait for the first packet until it is Ready")
    elif plugins := {pod.system_daemon_set for pod in ClusterCase.read(check, state.pods)} & {*NETWORKS}:
        names = ", ".join(sorted(NETWORKS[name] for name in plugins))
        yield ok(check, f"{names}: pods' packets pass netfilter")
    else:
        message = "no DaemonSet of a known network plugin runs in kube-system, as with kubenet"
        then = (
            "see az aks show --query networkProfile.networkPlugin: with kubenet a pod can use another pod's address, "
            "and NMI starts only with nmi.allowNetworkPluginKubenet: true"
        )
        yield warning(check, message, then)


def _check_redirect_policies(check: str, state: ClusterState) -> Iterator[Finding]:
    """Check the requirements of the backend `cilium`."""
    unlabelled = [node.metadata.name for node in state.linux if not node.has_ebpf_host_routing]
    message = "pods' packets bypass netfilter (eBPF host routing), so that no rule of a node redirects them"
    if not state.has_cilium:
        then = (
            f"the label is AKS's, and the API server has no group {CILIUM_GROUP}: see kubectl get nodes --show-labels"
        )
        yield problem(check, message, then)
    elif not ClusterCase.read(check, state.redirect_policies):
        then = "install Cilium with localRedirectPolicies.enabled=true; on AKS see docs/data-planes.md#requirements"
        yield problem(check, f"{message}, and Cilium serves no CiliumLocalRedirectPolicy", then)
    elif not state.redirects:
        then = (
            "set localRedirectPolicies.enabled=true in Cilium's values, with addressMatcherCIDRs empty or with "
            "169.254.169.254/32, and restart its agents"
        )
        yield problem(check, f"{message}, and Cilium's configuration does not permit the redirect", then)
    else:
        yield ok(check, f"{message}: Cilium redirects them with the values below")
        message = "the cluster's objects do not show it, and it may block NMI's own requests here"
        then = "with it use federated identities (type 3) only: docs/data-planes.md#limits-of-the-backend-cilium"
        yield warning("IMDS restriction", message, then)
    if 0 < len(unlabelled) < len(state.linux):
        message = f"{counted(len(unlabelled), 'Linux node')} without AKS's label of eBPF host routing: "
        then = "check after the installation that Cilium redirects there, too: podidctl verify"
        yield warning(check, message + listed(unlabelled), then)


def check_installed(state: ClusterState) -> Iterator[Finding]:
    """Check that no other installation uses the ports and the rules of this one."""
    check, (name, value) = "other installations", MANAGED_LABEL
    running = ClusterCase.read(check, state.facts.nmi)
    add_on = [daemon.name for daemon in running if daemon.metadata.label(name) == value]
    others = sorted({daemon.metadata.namespace for daemon in running if daemon.name not in add_on})
    if add_on:
        then = (
            "save its objects, and disable it: az aks update --resource-group GROUP --name CLUSTER "
            "--disable-pod-identity (docs/install-on-aks.md#conflicts)"
        )
        yield problem(
            check, f"AKS's add-on for pod identity runs {counted(len(add_on), 'NMI')}: {listed(add_on)}", then
        )
    if others:
        then = "upgrade that release instead of a second installation: docs/migration.md#step-by-step"
        yield warning(check, f"pods with NMI's label run in {listed(others)}", then)
    if not running:
        yield ok(check, "no pod has NMI's label")


def check_ports(state: ClusterState) -> Iterator[Finding]:
    """Check that no pod uses NMI's ports on the network of a node."""
    check = "host ports"
    ours = {daemon.key for daemon in readable(state.facts.nmi)}
    # NMI never runs on these nodes, so ports there do not matter.
    elsewhere = {node.metadata.name for node in ClusterCase.read(check, state.nodes) if not node.can_run_nmi}
    pods = ClusterCase.read(check, state.pods)
    others = (pod for pod in pods if pod.key not in ours and pod.spec.node_name not in elsewhere)
    used = [f"{port} of {'/'.join(pod.key)}" for pod in others for port in sorted(pod.node_ports & {*NMI_PORTS})]
    if state.path is Path.BYPASSES:
        yield ok(check, "with these values NMI uses no port of the node")
    elif used:
        message = f"{counted(len(used), 'port')} of NMI that another pod declares on its node: {listed(used)}"
        then = "set nmi.probePort, nmi.prometheusPort or --nmi-port in nmi.extraArgs to a free port"
        yield problem(check, message, then)
    else:
        ports = ", ".join(map(str, NMI_PORTS))
        yield ok(check, f"no pod declares {ports} on a node's network; programs that run outside of pods are not known")


def check_admission(state: ClusterState) -> Iterator[Finding]:
    """Report whether the API server accepts NMI's pods."""
    check, trial = "admission", ClusterCase.read("admission", state.trial)
    groups = frozenset[str]() if isinstance(state.groups, ReadFailure) else state.groups
    engines = [text for group, text in ENGINES.items() if group in groups]
    installed = f" ({' and '.join(engines)} in force)" if engines else ""
    if trial.accepted:
        yield ok(check, f"the API server accepts a pod like NMI's in namespace {state.namespace}{installed}")
    else:
        then = trial.then or (
            f"exclude namespace {state.namespace} in the policy that this text names, or label it "
            "pod-security.kubernetes.io/enforce=privileged; if it is about the image, pass your --repository"
        )
        yield problem(check, f"the API server refuses a pod like NMI's{installed}: {trial.reason}", then)


def check_roles(state: ClusterState) -> Iterator[Finding]:
    """Report the roles of MIC's principal on Azure, which the cluster's objects do not show."""
    if state.roles is not None:
        yield from state.roles
    elif state.hosts:
        then = "add --roles, which reads them with your az login, or compare with docs/install-on-aks.md#roles"
        yield warning("roles", "the roles of MIC's principal on Azure are not checked", then)


CHECKS: Final[tuple[Callable[[ClusterState], Iterator[Finding]], ...]] = (
    check_server,
    check_nodes,
    check_data_plane,
    check_installed,
    check_ports,
    check_admission,
    check_roles,
)
