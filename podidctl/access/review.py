"""The access review as a function of the objects. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import msgspec

from mic.decisions.assignments import Key, misconfigured
from podidctl.access.blast_radius import blast_radius, find_programs
from podidctl.access.grants import find_grants, live_pods, pod_note
from podidctl.access.host_access import host_access, undecided_access
from podidctl.access.hosts import CRITICAL, find_hosts, host_ids, identities_of_cluster
from podidctl.access.projections import ReviewedPod
from podidctl.access.schema import (
    AccessReview,
    Action,
    Binding,
    Explained,
    Grant,
    GrantState,
    Host,
    HostAccess,
    Identity,
    NodeAccess,
    PodAccess,
    PodException,
    ProgramAccess,
    Rules,
    Scope,
    SubjectAccess,
    Summary,
    Way,
)
from podidctl.access.scope import restrict
from podidctl.access.subjects import actions_of_accounts, find_subjects, with_accounts
from podidctl.access.targets import Targets, find_targets, secret_of
from podidctl.access.unknown_parts import unknown_parts
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.federated import account_name
from podidctl.evaluation.rbac import Permissions
from podidctl.facts.kinds import service_account_of
from podidctl.facts.model import Facts, ReadFailure
from podidctl.facts.workloads import controller
from podidctl.report.text import grouped
from podidentity.object_limits import oversized

WHOLE_CLUSTER = Scope()
GIVEN = frozenset({GrantState.USABLE, GrantState.PENDING})


def review(facts: Facts, scope: Scope = WHOLE_CLUSTER) -> AccessReview:
    """Return the review of the whole cluster, or of the part in *scope*. Raises StartError without such an object."""
    parts = _Review(facts)
    document = parts.document()
    if not scope.kind:
        return document
    restricted = restrict(document, scope)
    names = frozenset(identity.full_name for identity in restricted.identities)
    return msgspec.structs.replace(restricted, subjects=parts.subjects_of(names))


class _Review(ClusterCase):
    """Parts of the review. Each is computed once, from the parts that it needs."""

    @cached_property
    def live(self) -> list[ReviewedPod]:
        return live_pods(self.facts)

    @cached_property
    def grants(self) -> list[Grant]:
        return find_grants(self)

    @cached_property
    def node_names(self) -> list[str]:
        names = {node.metadata.name for node in self.facts.nodes}
        if "nodes" in self.facts.unread:
            # The pods show at least the nodes that they run on.
            names |= {pod.spec.node_name for pod in self.live} - {""}
        return sorted(names)

    @cached_property
    def node_of(self) -> dict[str, str]:
        return {"/".join(pod.key): pod.spec.node_name for pod in self.live}

    @cached_property
    def host_ids(self) -> dict[str, str]:
        """Id of the host by node."""
        return host_ids(self.host_of_node, self.node_names)

    @cached_property
    def hosts(self) -> list[Host]:
        return find_hosts(self, self.host_ids, self.node_of, self.grants)

    @cached_property
    def nmi_states(self) -> dict[str, str]:
        """State of NMI by node."""
        if not self.nmi:
            # Not "none": NMI may run outside of pods that have its label.
            return dict.fromkeys(self.node_names, "unknown")
        states = dict.fromkeys(self.node_names, "none")
        for daemon in self.nmi:
            if daemon.spec.node_name in states:
                # A node has two pods of NMI while the DaemonSet replaces one.
                ready = daemon.ready or states[daemon.spec.node_name] == "ready"
                states[daemon.spec.node_name] = "ready" if ready else "not ready"
        return states

    @cached_property
    def daemon_of(self) -> dict[Key, str]:
        """Program by pod."""
        programs = (("nmi", self.nmi), ("mic", self.mic))
        return {daemon.key: program for program, daemons in programs for daemon in daemons}

    @cached_property
    def permissions(self) -> Permissions | None:
        """Permissions of all subjects; None if RBAC could not be read."""
        rbac = self.facts.rbac
        return None if isinstance(rbac, ReadFailure) else Permissions(rbac)

    @cached_property
    def programs(self) -> list[ProgramAccess]:
        return find_programs(self, self.permissions, self.grants)

    @cached_property
    def ways(self) -> dict[str, list[HostAccess]]:
        """Ways of each pod to the identities of its node, by pod."""
        by_pod = {}
        for pod in self.live:
            missing = self.nodes_without_nmi.get(pod.spec.node_name)
            # On a node that does not reach IMDS, a missing NMI opens no way.
            reason = missing.reason if missing is not None and missing.reaches_imds else ""
            ways = host_access(pod, self.exempt(pod), nmi_missing=reason) if pod.spec.node_name else []
            by_pod["/".join(pod.key)] = ways
        return by_pod

    @cached_property
    def targets(self) -> Targets:
        names = {
            host.id: frozenset(name for attached in host.attached for name in attached.identities)
            for host in self.hosts
        }
        targets = find_targets(
            self,
            self.live,
            grants=self.grants,
            programs=self.programs,
            ways=self.ways,
            attached={node: names[host] for node, host in self.host_ids.items()},
        )
        if self.permissions is not None:
            account_of = {"/".join(pod.key): account_name(pod) for pod in self.live}
            targets = with_accounts(self.permissions, targets, account_of)
        of_nodes: defaultdict[str, set[str]] = defaultdict(set)
        for pod, its in targets.of_pods.of_object.items():
            of_nodes[self.node_of[pod]] |= its
        return replace(targets, of_nodes={node: frozenset(its) for node, its in of_nodes.items()})

    @cached_property
    def subjects(self) -> list[SubjectAccess]:
        return find_subjects(self.permissions, self.targets) if self.permissions is not None else []

    def subjects_of(self, identities: frozenset[str]) -> list[SubjectAccess]:
        """Return the subjects with permissions that lead to one of *identities*."""
        if self.permissions is None:
            return []
        return find_subjects(self.permissions, replace(self.targets, only=identities))

    @cached_property
    def pods(self) -> list[PodAccess]:
        granted = grouped((grant.pod, grant) for grant in self.grants)
        actions: Mapping[str, list[Action]] = {}
        if self.permissions is not None:
            actions = actions_of_accounts(self.permissions, self.targets, {account_name(pod) for pod in self.live})
        explained = self.facts.unread.keys().isdisjoint({"bindings", "identities"})
        accesses = []
        for pod in self.live:
            name = "/".join(pod.key)
            ways, undecided = self.ways[name], undecided_access(pod) if pod.spec.node_name else []
            if not (ways or undecided or pod.binding_label or name in granted or pod.key in self.daemon_of):
                continue
            accesses.append(
                PodAccess(
                    namespace=pod.metadata.namespace,
                    name=pod.metadata.name,
                    node=pod.spec.node_name,
                    label=pod.binding_label,
                    service_account=account_name(pod),
                    workload=workload_of(pod),
                    program=self.daemon_of.get(pod.key, ""),
                    mirror=pod.mirror,
                    host_access=ways,
                    undecided_access=undecided,
                    rights=actions.get(account_name(pod), []),
                    note=pod_note(
                        pod, granted.get(name, ()), self.nodes_without_nmi.get(pod.spec.node_name), explained=explained
                    ),
                )
            )
        return sorted(accesses, key=lambda pod: pod.key)

    @cached_property
    def nodes(self) -> list[NodeAccess]:
        pods = Counter(pod.spec.node_name for pod in self.live)
        host_pods = grouped((pod.node, pod.full_name) for pod in self.pods if pod.host_access)
        accounts = grouped((daemon.spec.node_name, service_account_of(daemon)) for daemon in (*self.nmi, *self.mic))
        grants = grouped((self.node_of[grant.pod], grant) for grant in self.grants)
        hosts = {host.id: host for host in self.hosts}
        return [
            NodeAccess(
                name=name,
                host=self.host_ids[name],
                nmi=self.nmi_states[name],
                pods=pods[name],
                host_pods=host_pods[name],
                blast_radius=blast_radius(grants[name], hosts[self.host_ids[name]], accounts[name], of_node=True),
            )
            for name in self.node_names
        ]

    @cached_property
    def identities(self) -> list[Identity]:
        pods = grouped((grant.identity, grant.pod) for grant in self.grants)
        bindings = grouped((binding.identity, binding.full_name) for binding in self.bindings)
        hosts = grouped(
            (name, host.id) for host in self.hosts for attached in host.attached for name in attached.identities
        )
        reaching: Counter[str] = Counter()
        for node in self.nodes:
            reaching[node.host] += len(node.host_pods)
        identities = []
        for identity in self.facts.identities:
            name, spec = "/".join(identity.key), identity.spec
            identities.append(
                Identity(
                    namespace=identity.metadata.namespace,
                    name=identity.metadata.name,
                    type=spec.type,
                    client_id=spec.client_id,
                    resource_id=spec.resource_id,
                    tenant_id=spec.tenant_id,
                    namespaced=self.namespaced or identity.namespaced,
                    secret=secret_of(identity),
                    problem=misconfigured(identity),
                    bindings=bindings[name],
                    pods=len(set(pods[name])),
                    hosts=hosts[name],
                    host_pods=sum(reaching[host] for host in hosts[name]),
                )
            )
        return sorted(identities, key=lambda identity: identity.key)

    @cached_property
    def bindings(self) -> list[Binding]:
        pods = Counter(grant.binding for grant in self.grants)
        existing = {identity.key for identity in self.facts.identities}
        critical = identities_of_cluster(self.facts)
        beyond = {binding.key: reason for binding, reason in self.binding_index.beyond()}
        bindings = []
        for binding in self.facts.bindings:
            identity = (binding.metadata.namespace, binding.spec.azure_identity)
            problem = oversized(binding) or beyond.get(binding.key, "")
            if not problem and identity not in existing:
                problem = f"there is no AzureIdentity {'/'.join(identity)}"
            # If identities could not be read, each binding would seem to name a missing one.
            if "identities" in self.facts.unread:
                problem = ""
            bindings.append(
                Binding(
                    namespace=binding.metadata.namespace,
                    name=binding.metadata.name,
                    identity="/".join(identity),
                    selector=binding.spec.selector,
                    pods=pods["/".join(binding.key)],
                    problem=problem,
                    critical=CRITICAL if identity in critical else "",
                )
            )
        return sorted(bindings, key=lambda binding: binding.key)

    @cached_property
    def exceptions(self) -> list[PodException]:
        pods = Counter(way.detail for pod in self.pods for way in pod.host_access if way.way is Way.EXCEPTION)
        return [
            PodException(
                namespace=exception.metadata.namespace,
                name=exception.metadata.name,
                labels=dict(sorted((exception.spec.pod_labels or {}).items())),
                pods=pods["/".join(exception.key)],
            )
            for exception in sorted(self.facts.exceptions, key=lambda exception: exception.key)
        ]

    def rules(self) -> Rules:
        """Return how NMI and MIC decide."""
        settings = [configuration.settings for configuration in self.by_node.values()] or [self.usual.settings]
        return Rules(
            mode="managed" if self.managed else "standard",
            force_namespaced=self.namespaced,
            federated_identities=any(node_settings.federated_identities for node_settings in settings),
            source=self.usual.source,
        )

    @cached_property
    def azure(self) -> str:
        """Whether Azure was `read`, `partly read` or `not read`."""
        if self.facts.azure is None:
            return "not read"
        # A node without a VM or scale set has nothing on Azure that could be read.
        return "read" if all(host.read for host in self.hosts if host.kind != "node") else "partly read"

    def summary(self) -> Summary:
        """Return the totals."""
        unread = self.facts.unread.keys()
        pods_read, nodes_read = "pods" not in unread, "nodes" not in unread
        grants_known = unread.isdisjoint({"pods", "identities", "bindings", "assigned"})
        given = {grant.pod for grant in self.grants if grant.state in GIVEN}
        unexplained = [
            attached for host in self.hosts for attached in host.attached if attached.explained is Explained.NOTHING
        ]
        # A pod that certainly reaches its host is in host_pods already.
        undecided = [pod for pod in self.pods if pod.undecided_access and not pod.host_access]
        return Summary(
            identities=None if "identities" in unread else len(self.facts.identities),
            bindings=None if "bindings" in unread else len(self.facts.bindings),
            pods=len(self.live) if pods_read else None,
            pods_with_identities=len(given) if grants_known else None,
            host_pods=sum(bool(pod.host_access) for pod in self.pods) if pods_read else None,
            undecided_pods=len(undecided) if pods_read else None,
            nodes=len(self.facts.nodes) if nodes_read else None,
            hosts=len(self.hosts) if nodes_read else None,
            unexplained=len(unexplained) if self.azure == "read" else None,
            subjects=sum(not subject.built_in for subject in self.subjects) if self.permissions is not None else None,
        )

    def document(self) -> AccessReview:
        """Return the whole review."""
        azure = self.facts.azure
        return AccessReview(
            read_at=f"{self.facts.now:%Y-%m-%dT%H:%M:%SZ}",
            rules=self.rules(),
            cluster_identity=azure.own_identity if azure is not None else "",
            azure=self.azure,
            unknown=list(unknown_parts(self, self.hosts)),
            summary=self.summary(),
            identities=self.identities,
            bindings=self.bindings,
            exceptions=self.exceptions,
            pods=self.pods,
            grants=self.grants,
            nodes=self.nodes,
            hosts=self.hosts,
            programs=self.programs,
            subjects=self.subjects,
        )


def workload_of(pod: ReviewedPod) -> str:
    """Return the owner of the pod; for the ReplicaSet of a Deployment the Deployment."""
    owner = controller(pod)
    if owner is None:
        return f"Pod {pod.metadata.name}"
    suffix = "-" + pod.metadata.label("pod-template-hash")
    if owner.kind == "ReplicaSet" and len(suffix) > 1 and owner.name.endswith(suffix):
        return f"Deployment {owner.name.removesuffix(suffix)}"
    return f"{owner.kind} {owner.name}"
