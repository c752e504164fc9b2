"""What has to be done for each AzureIdentity, and what stands in the way, out of what was read. Pure.

A federated identity serves its own namespace alone, trusts service accounts instead of VMs, and is NMI's to serve and
nobody else's: whoever has the identity in another way than that now would lose it, and so blocks the change.
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
"""From which on the chart's ValidatingAdmissionPolicy keeps NMI to the tokens that it needs."""
TENANT: Final = "its tenant is not known: give --tenant, which `az account show --query tenantId -o tsv` tells"
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


@dataclass(frozen=True)
class PlanOptions:
    """What the command line says."""

    cloud: Cloud
    tenant: str = ""
    issuer: str = ""
    audience: str = ""
    """Empty for what NMI has."""


@dataclass(frozen=True)
class FederationState:
    """What was read."""

    situation: WorkloadState
    issuer: str = ""
    version: str = ""
    exceptions: Sequence[AzurePodIdentityException] = ()
    assigned: Sequence[AzureAssignedIdentity] = ()
    managed: bool = False
    """Whether bindings alone decide, so that no MIC has to follow."""
    nmis: Sequence[Settings] = ()
    nmi_unknown: str = ""
    """Why the flags of an NMI are not known, if so."""
    forbidden: Collection[Key] = ()
    """Service accounts of which NMI may not ask for tokens."""
    rights_unknown: str = ""
    """Why it is not known which these are, if so."""
    webhook: bool | None = None
    """Whether workload identity's webhook is there; None where that could not be told."""


def audience_of(cluster: FederationState, options: PlanOptions) -> str:
    """Of the federated credentials: what is asked for, else NMI's."""
    return options.audience or next((each.federated_audience for each in cluster.nmis), AUDIENCE)


def policy_of(cluster: FederationState, options: PlanOptions) -> SignInPolicy:
    """Which endpoints a proof may be sent to, as NMI sees it."""
    allowed = {each.allowed_ad_endpoints for each in cluster.nmis}
    return SignInPolicy(options.cloud, allowed_endpoints=allowed.pop() if len(allowed) == 1 else ())


def plan_federation(cluster: FederationState, options: PlanOptions) -> FederationPlan:
    """All of it but the applications, which are `applications.planned`."""
    return _FederationPlanner(cluster, options).run()


def as_federated(identity: AzureIdentity, tenant: str) -> AzureIdentity:
    """What *identity* becomes."""
    spec = replace(identity.spec, type=int(IdentityType.FEDERATED), tenant_id=tenant)
    return replace(identity, spec=spec)


def account_usages(situation: WorkloadState) -> dict[Key, list[AccountUsage]]:
    """By AzureIdentity: the service accounts whose pods have it, with the workloads, and one of the pods."""
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
            told = workloads[want.identity.key][account]
            if not told:
                told.add(f"Pod {'/'.join(pod.key)}")
            if pod.metadata.deletion_timestamp is None:
                pods.setdefault((want.identity.key, account), pod.metadata)
    nobody = BareMeta()
    return {
        identity: [
            AccountUsage(
                namespace=account[0],
                name=account[1],
                workloads=sorted(told),
                pod=pods.get((identity, account), nobody).name,
                pod_uid=pods.get((identity, account), nobody).uid,
            )
            for account, told in sorted(users.items())
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
            why = f"it is a service principal (type {kind}), which no VM has to hold"
            do = "leave it; or make a federated credential of its application (az ad app federated-credential create), "
            return UnchangedIdentity(identity=name, why=why, do=f"{do}set type: 3, and take its Secret away")
        if fault := misconfigured(identity):
            return UnchangedIdentity(identity=name, why=fault, do="correct or delete it")
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
                    why=f"pods of other namespaces have it ({', '.join(strangers)}), and type 3 serves its own alone",
                    do="podidctl migrate plan -o manifests | kubectl apply -f -, which gives each of them its own",
                )
            )
        remarks += [each for account in accounts for each in self._of_account(identity, account)]
        if marked:
            remarks.append(
                Remark(
                    why="somebody has set it back to type 0 after it was switched",
                    do="set type: 3 and tenantID in its manifest, wherever that is kept",
                    blocks=False,
                )
            )
        return self._step(identity, IdentityState.TO_DO, tenant, remarks, copies)

    def _switched(self, identity: AzureIdentity) -> IdentityStep:
        behind = [] if self._cluster.managed else lagging_pods(self._state, identity, self._cluster.assigned)
        remarks = [
            Remark(
                why=f"MIC has not followed for {len(behind)} of its pods ({_few(behind)})",
                do="podidctl migrate apply waits for it, podidctl migrate rollback goes back; see MIC's log",
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

    # What stands in the way.

    def _cluster_remarks(self, issuer: str) -> Iterator[Remark]:
        """Of the cluster, whichever identity it is about."""
        version = _VERSION.match(self._cluster.version)
        if version is not None and (int(version[1]), int(version[2])) < KUBERNETES_MIN:
            yield Remark(
                why=f"Kubernetes is {self._cluster.version}, without the admission policies that NMI is held by",
                do="upgrade the cluster to 1.30 or later",
            )
        if not issuer:
            why = "the cluster does not say who signs its service accounts' tokens"
            yield Remark(why=why, do="give --issuer, as federated credentials have it", blocks=False)
        elif not is_public(issuer):
            told = unreachable_issuer(issuer)
            yield Remark(why=f"{told.about}: {told.why}", do=told.do, blocks=False)
        without = [each.node_name for each in self._cluster.nmis if not each.federated_identities]
        if without:
            yield Remark(
                why=f"NMI runs without --federated-identities on {_few(without)}",
                do="set federated.enabled and federated.namespaces in the chart's values",
            )
        audiences = {each.federated_audience for each in self._cluster.nmis}
        if self._options.audience and audiences and audiences != {self._options.audience}:
            yield Remark(
                why=f"NMI asks for tokens with audience {_few(audiences)}, not {self._options.audience}",
                do="leave --audience out, or set federated.audience in the chart's values",
            )
        if self._cluster.rights_unknown:
            yield Remark(
                why=f"it cannot be told which tokens NMI may ask for: {self._cluster.rights_unknown}",
                do="see that the chart's federated.namespaces has every namespace of this plan",
                blocks=False,
            )
        if self._cluster.nmi_unknown:
            yield Remark(
                why=f"it cannot be told whether NMI serves type 3: {self._cluster.nmi_unknown}",
                do="see that each NMI runs with --federated-identities",
                blocks=False,
            )

    def _of_identity(self, identity: AzureIdentity, tenant: str, accounts: Sequence[AccountUsage]) -> Iterator[Remark]:
        if not tenant:
            yield Remark(why=TENANT.partition(": ")[0], do=TENANT.partition(": ")[2])
        else:
            try:
                self._policy.federation(as_federated(identity, tenant))
            except PolicyError as error:
                yield Remark(why=error.detail, do="correct it, then run this again")
        own = [each for each in accounts if each.namespace == identity.metadata.namespace]
        if not own:
            yield Remark(
                why="no workload and no pod of its namespace has it now, so that no token can be tried",
                do="delete it once nothing elsewhere needs it either, or run this again when something has it",
            )
        if len(own) > CREDENTIALS_MAX:
            yield Remark(
                why=f"it would need {len(own)} federated credentials, and Azure allows it {CREDENTIALS_MAX}",
                do="let workloads share service accounts, or give them identities of their own",
            )
        if around := self._not_served_by_nmi.get(identity.key):
            yield Remark(
                why=f"{_few(around)} gets its tokens from IMDS itself, and loses them with the identity on its VM",
                do="bind it to a second AzureIdentity of type 0 with the same resourceID, and not to this one",
            )

    def _of_account(self, identity: AzureIdentity, account: AccountUsage) -> Iterator[Remark]:
        key = (account.namespace, account.name)
        if account.namespace != identity.metadata.namespace:
            return
        if key in self._cluster.forbidden:
            yield Remark(
                why=f"NMI may not ask for tokens of service account {account.description}",
                do=f"add namespace {account.namespace} to federated.namespaces in the chart's values",
            )
        if account.name == DEFAULT_ACCOUNT:
            yield Remark(
                why=f"{_few(account.workloads)} has service account default, as all pods that name none: whoever can "
                f"get its tokens can have this identity without any binding",
                do="give the workload a service account of its own",
                blocks=False,
            )
        if not account.pod:
            yield Remark(
                why=f"there is no pod with service account {account.description} now: its token is tried without one",
                do="nothing, or run this again when there is one",
                blocks=False,
            )

    def _find_not_served_by_nmi(self) -> Mapping[Key, list[str]]:
        """By AzureIdentity: what NMI lets through to IMDS, or does not see."""
        found: defaultdict[Key, list[str]] = defaultdict(list)
        for workload in self._state.inventory.workloads():
            meta = PodMeta(namespace=workload.namespace, name=workload.name, labels=dict(workload.labels))
            pod = Pod(metadata=meta, spec=PodSpec(host_network=workload.host_network))
            why = "host network" if workload.host_network else self._why_exempt(pod)
            for want in self._bound.desired(workload) if why else ():
                found[want.identity.key].append(f"{workload.description} ({why})")
        return found


def _few(names: Collection[str], most: int = 3) -> str:
    listed = sorted(set(names))
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
