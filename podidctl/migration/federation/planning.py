"""Steps for each AzureIdentity and the obstacles, from the state that was read. Pure.

A federated identity serves only its own namespace, trusts service accounts instead of VMs, and is served only by NMI. A
user of the identity by any other path would lose it, so such users block the switch.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from mic.decisions.assignments import misconfigured
from nmi.settings import Settings
from nmi.tokens.endpoints import SignInPolicy
from nmi.tokens.source import PolicyError
from podidctl.doctor.exemptions import exemption_reasons
from podidctl.migration.federation.json_patches import FORMER_ANNOTATION
from podidctl.migration.federation.lagging_pods import lagging_pods
from podidctl.migration.federation.other_namespaces import OtherNamespaces
from podidctl.migration.federation.schema import (
    AccountUsage,
    FederationPlan,
    IdentityState,
    IdentityStep,
    Remark,
    UnchangedIdentity,
)
from podidctl.migration.workload_identity import (
    AUDIENCE,
    CREDENTIALS_MAX,
    WorkloadState,
    credential_of,
    is_public,
    unreachable_issuer,
)
from podidctl.migration.workloads import DEFAULT_ACCOUNT, Key
from podidctl.printing import listed
from podidentity.azure.clouds import Cloud
from podidentity.resources import (
    BINDING_LABEL,
    AzureAssignedIdentity,
    AzureIdentity,
    AzurePodIdentityException,
    BareMeta,
    IdentityType,
    Pod,
    PodMeta,
    PodSpec,
)

KUBERNETES_MIN: Final = (1, 30)
"""The first Kubernetes version in which the chart's ValidatingAdmissionPolicy limits the tokens that NMI may request.
"""
TENANT: Final = "its tenant is not known: pass --tenant, the output of `az account show --query tenantId -o tsv`"
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


@dataclass(frozen=True)
class PlanOptions:
    """Options of the command line."""

    cloud: Cloud
    tenant: str = ""
    issuer: str = ""
    audience: str = ""
    """Empty for NMI's audience."""


@dataclass(frozen=True)
class FederationState:
    """State that was read."""

    situation: WorkloadState
    issuer: str = ""
    version: str = ""
    exceptions: Sequence[AzurePodIdentityException] = ()
    assigned: Sequence[AzureAssignedIdentity] = ()
    managed: bool = False
    """Whether NMI runs in managed mode, without MIC."""
    nmis: Sequence[Settings] = ()
    nmi_unknown: str = ""
    """Why the flags of an NMI are not known; empty if they are."""
    forbidden: Collection[Key] = ()
    """Service accounts whose tokens NMI may not request."""
    rights_unknown: str = ""
    """Why these permissions are not known; empty if they are."""
    webhook: bool | None = None
    """Whether workload identity's webhook is installed; None if unknown."""


def audience_of(cluster: FederationState, options: PlanOptions) -> str:
    """Return the audience of the federated credentials: the option, or else NMI's."""
    return options.audience or next((each.federated_audience for each in cluster.nmis), AUDIENCE)


def policy_of(cluster: FederationState, options: PlanOptions) -> SignInPolicy:
    """Return NMI's policy about the endpoints that may receive credentials."""
    allowed = {each.allowed_ad_endpoints for each in cluster.nmis}
    return SignInPolicy(options.cloud, allowed_endpoints=allowed.pop() if len(allowed) == 1 else ())


def plan_federation(cluster: FederationState, options: PlanOptions) -> FederationPlan:
    """Return the plan without applications, which `applications.plan_applications` adds."""
    return _FederationPlanner(cluster, options).run()


def as_federated(identity: AzureIdentity, tenant: str) -> AzureIdentity:
    """Return *identity* after the switch."""
    spec = replace(identity.spec, type=int(IdentityType.FEDERATED), tenant_id=tenant)
    return replace(identity, spec=spec)


def account_usages(situation: WorkloadState) -> dict[Key, list[AccountUsage]]:
    """Return, by AzureIdentity, the service accounts whose pods have it, with their workloads and one pod."""
    bound = situation.bound()
    workloads: defaultdict[Key, defaultdict[Key, set[str]]] = defaultdict(lambda: defaultdict(set))
    pods: dict[tuple[Key, Key], BareMeta] = {}
    for workload in situation.inventory.workloads():
        for want in bound.desired(workload):
            workloads[want.identity.key][workload.account_key].add(workload.description)
    for pod in situation.inventory.pods:
        if pod.status.phase in {"Succeeded", "Failed"}:
            continue
        account = (pod.metadata.namespace, pod.spec.service_account_name or DEFAULT_ACCOUNT)
        for want in bound.desired_for(pod.metadata.namespace, pod.metadata.label(BINDING_LABEL)):
            descriptions = workloads[want.identity.key][account]
            if not descriptions:
                descriptions.add(f"Pod {'/'.join(pod.key)}")
            if pod.metadata.deletion_timestamp is None:
                pods.setdefault((want.identity.key, account), pod.metadata)
    nobody = BareMeta()
    return {
        identity: [
            AccountUsage(
                namespace=account[0],
                name=account[1],
                workloads=sorted(descriptions),
                pod=pods.get((identity, account), nobody).name,
                pod_uid=pods.get((identity, account), nobody).uid,
            )
            for account, descriptions in sorted(users.items())
        ]
        for identity, users in workloads.items()
    }


class _FederationPlanner:
    def __init__(self, cluster: FederationState, options: PlanOptions) -> None:
        self._cluster = cluster
        self._options = options
        self._policy = policy_of(cluster, options)
        self._state = cluster.situation
        self._bound = self._state.bound()
        self._accounts = account_usages(self._state)
        self._other_namespaces = OtherNamespaces(self._state, self._bound)
        self._named = {(each.metadata.namespace, each.spec.azure_identity) for each in self._state.bindings}
        self._why_exempt = exemption_reasons(cluster.nmis, cluster.exceptions)
        self._not_served_by_nmi = self._find_not_served_by_nmi()

    def run(self) -> FederationPlan:
        steps, leftovers = [], []
        for identity in sorted(self._state.identities, key=lambda each: each.key):
            if isinstance(found := self._one(identity), IdentityStep):
                steps.append(found)
            elif found is not None:
                leftovers.append(found)
        issuer = self._options.issuer or self._cluster.issuer
        return FederationPlan(
            issuer=issuer,
            audience=audience_of(self._cluster, self._options),
            remarks=list(self._cluster_remarks(issuer)),
            steps=steps,
            applications=[],
            leftovers=leftovers,
        )

    def _one(self, identity: AzureIdentity) -> IdentityStep | UnchangedIdentity | None:
        kind, name = identity.spec.type, "/".join(identity.key)
        marked = bool(identity.metadata.annotation(FORMER_ANNOTATION))
        if kind == IdentityType.FEDERATED:
            return self._switched(identity) if marked else None
        if kind in {IdentityType.SECRET, IdentityType.CERTIFICATE}:
            why = f"it is a service principal (type {kind}), which is not attached to VMs"
            do = (
                "no action is required; to switch it, create a federated credential of its application (az ad app "
                "federated-credential create),  "
            )
            return UnchangedIdentity(identity=name, why=why, do=f"{do}set type: 3, and remove its Secret")
        if fault := misconfigured(identity):
            return UnchangedIdentity(identity=name, why=fault, do="correct it or delete it")
        if identity.key not in self._named:
            return UnchangedIdentity(identity=name, why="no AzureIdentityBinding names it", do="delete it")
        tenant = self._options.tenant or identity.spec.tenant_id.strip()
        accounts = self._accounts.get(identity.key, [])
        remarks = [*self._of_identity(identity, tenant, accounts)]
        copies: list[dict[str, Any]] = []
        if strangers := self._other_namespaces.namespaces(identity, {each.namespace for each in accounts}):
            copies = [each for namespace in strangers for each in self._other_namespaces.copies(identity, namespace)]
            remarks.append(
                Remark(
                    why=(
                        f"pods of other namespaces have it ({', '.join(strangers)}), but type 3 serves only its own "
                        "namespace"
                    ),
                    do="podidctl migrate plan -o manifests | kubectl apply -f -, which creates one in each of them",
                )
            )
        remarks += [each for account in accounts for each in self._of_account(identity, account)]
        if marked:
            remarks.append(
                Remark(
                    why="it was set back to type 0 after the switch",
                    do="set type: 3 and tenantID in its manifest, where that is stored",
                    blocks=False,
                )
            )
        return self._step(identity, IdentityState.TO_DO, tenant, remarks, copies)

    def _switched(self, identity: AzureIdentity) -> IdentityStep:
        behind = [] if self._cluster.managed else lagging_pods(self._state, identity, self._cluster.assigned)
        remarks = [
            Remark(
                why=f"MIC has not updated {len(behind)} of its pods ({listed(set(behind), 3)})",
                do="podidctl migrate apply waits for MIC, podidctl migrate rollback undoes the switch; see MIC's log",
                blocks=False,
            )
        ]
        state = IdentityState.UNFINISHED if behind else IdentityState.SWITCHED
        return self._step(identity, state, identity.spec.tenant_id, remarks if behind else [], [])

    def _step(
        self,
        identity: AzureIdentity,
        state: IdentityState,
        tenant: str,
        remarks: list[Remark],
        copies: list[dict[str, Any]],
    ) -> IdentityStep:
        own = identity.metadata.namespace
        accounts = [each for each in self._accounts.get(identity.key, []) if each.namespace == own]
        return IdentityStep(
            namespace=own,
            name=identity.metadata.name,
            state=state,
            tenant=tenant,
            accounts=accounts,
            credentials=[credential_of(identity, own, each.name) for each in accounts],
            remarks=remarks,
            copies=copies,
        )

    # Obstacles.

    def _cluster_remarks(self, issuer: str) -> Iterator[Remark]:
        """Yield remarks about the cluster that concern all identities."""
        version = _VERSION.match(self._cluster.version)
        if version is not None and (int(version[1]), int(version[2])) < KUBERNETES_MIN:
            yield Remark(
                why=f"Kubernetes is {self._cluster.version}, without the admission policies that limit NMI",
                do="upgrade the cluster to 1.30 or later",
            )
        if not issuer:
            why = "the cluster does not publish the issuer of its service account tokens"
            yield Remark(why=why, do="pass --issuer, with the value of the federated credentials", blocks=False)
        elif not is_public(issuer):
            finding = unreachable_issuer(issuer)
            yield Remark(why=f"{finding.about}: {finding.why}", do=finding.do, blocks=False)
        without = [each.node_name for each in self._cluster.nmis if not each.federated_identities]
        if without:
            yield Remark(
                why=f"NMI runs without --federated-identities on {listed(set(without), 3)}",
                do="set federated.enabled and federated.namespaces in the chart's values",
            )
        audiences = {each.federated_audience for each in self._cluster.nmis}
        if self._options.audience and audiences and audiences != {self._options.audience}:
            yield Remark(
                why=f"NMI requests tokens with audience {listed(set(audiences), 3)}, not {self._options.audience}",
                do="omit --audience, or set federated.audience in the chart's values",
            )
        if self._cluster.rights_unknown:
            yield Remark(
                why=f"it is unknown which tokens NMI may request: {self._cluster.rights_unknown}",
                do="check that the chart's federated.namespaces contains every namespace of this plan",
                blocks=False,
            )
        if self._cluster.nmi_unknown:
            yield Remark(
                why=f"it is unknown whether NMI serves type 3: {self._cluster.nmi_unknown}",
                do="check that each NMI runs with --federated-identities",
                blocks=False,
            )

    def _of_identity(self, identity: AzureIdentity, tenant: str, accounts: Sequence[AccountUsage]) -> Iterator[Remark]:
        if not tenant:
            yield Remark(why=TENANT.partition(": ")[0], do=TENANT.partition(": ")[2])
        else:
            try:
                self._policy.federation(as_federated(identity, tenant))
            except PolicyError as error:
                yield Remark(why=error.detail, do="correct it, then run this command again")
        own = [each for each in accounts if each.namespace == identity.metadata.namespace]
        if not own:
            yield Remark(
                why="no workload or pod of its namespace has it now, so no token can be tested",
                do=(
                    "delete it if other namespaces do not need it either, or run this command again when a workload "
                    "has it"
                ),
            )
        if len(own) > CREDENTIALS_MAX:
            yield Remark(
                why=f"it would need {len(own)} federated credentials, and Azure allows {CREDENTIALS_MAX}",
                do="let workloads share service accounts, or give them separate identities",
            )
        if around := self._not_served_by_nmi.get(identity.key):
            yield Remark(
                why=(
                    f"{listed(set(around), 3)} gets its tokens from IMDS directly, and loses them when the identity is "
                    "detached from its VM"
                ),
                do="bind it to a second AzureIdentity of type 0 with the same resourceID instead of this one",
            )

    def _of_account(self, identity: AzureIdentity, account: AccountUsage) -> Iterator[Remark]:
        key = (account.namespace, account.name)
        if account.namespace != identity.metadata.namespace:
            return
        if key in self._cluster.forbidden:
            yield Remark(
                why=f"NMI may not request tokens of service account {account.full_name}",
                do=f"add namespace {account.namespace} to federated.namespaces in the chart's values",
            )
        if account.name == DEFAULT_ACCOUNT:
            yield Remark(
                why=(
                    f"{listed(account.workloads, 3)} has service account default, as all pods that name none: any pod "
                    "or user that gets its tokens can use this identity without a binding"
                ),
                do="give the workload a separate service account",
                blocks=False,
            )
        if not account.pod:
            yield Remark(
                why=f"no pod has service account {account.full_name} now: its token is tested without a pod",
                do="nothing, or run this command again when a pod has it",
                blocks=False,
            )

    def _find_not_served_by_nmi(self) -> Mapping[Key, list[str]]:
        """Return, by AzureIdentity, the workloads that NMI exempts or does not see."""
        found: defaultdict[Key, list[str]] = defaultdict(list)
        for workload in self._state.inventory.workloads():
            meta = PodMeta(namespace=workload.namespace, name=workload.name, labels=dict(workload.labels))
            pod = Pod(metadata=meta, spec=PodSpec(host_network=workload.host_network))
            why = "host network" if workload.host_network else self._why_exempt(pod)
            for want in self._bound.desired(workload) if why else ():
                found[want.identity.key].append(f"{workload.description} ({why})")
        return found
