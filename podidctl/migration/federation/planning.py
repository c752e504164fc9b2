"""Steps for each AzureIdentity, from the state that was read. Pure.

A federated identity serves only its own namespace, trusts service accounts instead of VMs, and is served only by NMI.
"""

from typing import Any

from mic.decisions.assignments import misconfigured
from podidctl.migration.federation.identity_users import OtherNamespaces, account_usages, lagging_pods
from podidctl.migration.federation.json_patches import FORMER_ANNOTATION
from podidctl.migration.federation.obstacles import (
    account_obstacles,
    cluster_obstacles,
    identity_obstacles,
    workloads_past_nmi,
)
from podidctl.migration.federation.planning_input import FederationState
from podidctl.migration.federation.schema import (
    FederationPlan,
    IdentityState,
    IdentityStep,
    Remark,
    UnchangedIdentity,
)
from podidctl.migration.workload_identity import credential_of
from podidctl.report.text import listed
from podidentity.azure.federation import Exchange
from podidentity.azure.resource_ids import parse_user_assigned
from podidentity.resources import AzureIdentity, IdentityType


def plan_federation(cluster: FederationState) -> FederationPlan:
    """Return the plan without applications, which `applications.plan_applications` adds."""
    return _FederationPlanner(cluster).run()


class _FederationPlanner:
    def __init__(self, cluster: FederationState) -> None:
        self._cluster = cluster
        self._options = cluster.options
        self._state = cluster.situation
        self._accounts = account_usages(self._state)
        self._other_namespaces = OtherNamespaces(self._state)
        self._named = {(binding.metadata.namespace, binding.spec.azure_identity) for binding in self._state.bindings}
        self._past_nmi = workloads_past_nmi(cluster)

    def run(self) -> FederationPlan:
        results = [
            self._result(identity) for identity in sorted(self._state.identities, key=lambda identity: identity.key)
        ]
        steps = [result for result in results if isinstance(result, IdentityStep)]
        issuer = self._options.issuer or self._cluster.issuer
        return FederationPlan(
            issuer=issuer,
            audience=self._cluster.audience,
            exchange=self._cluster.default_exchange,
            remarks=list(cluster_obstacles(self._cluster, issuer, steps)),
            steps=steps,
            applications=[],
            leftovers=[result for result in results if isinstance(result, UnchangedIdentity)],
        )

    def _result(self, identity: AzureIdentity) -> IdentityStep | UnchangedIdentity:
        kind, name = identity.spec.type, "/".join(identity.key)
        marked = bool(identity.metadata.annotation(FORMER_ANNOTATION))
        if kind == IdentityType.FEDERATED:
            return self._switched(identity) if marked else self._federated(identity)
        if kind in {IdentityType.SECRET, IdentityType.CERTIFICATE}:
            reason = f"it is a service principal (type {kind}), which is not attached to VMs"
            do = (
                "no action is required; to switch it, create a federated credential of its application (az ad app "
                "federated-credential create), set type: 3, and remove its Secret"
            )
            return UnchangedIdentity(identity=name, why=reason, do=do)
        if fault := misconfigured(identity):
            return UnchangedIdentity(identity=name, why=fault, do="correct it or delete it")
        if identity.key not in self._named:
            return UnchangedIdentity(identity=name, why="no AzureIdentityBinding names it", do="delete it")
        tenant = self._options.tenant.strip() or identity.spec.tenant_id.strip()
        accounts = self._accounts.get(identity.key, [])
        past_nmi = self._past_nmi.get(identity.key, ())
        remarks = [*identity_obstacles(self._cluster, identity, tenant, accounts, past_nmi)]
        copies = self._other_namespaces.copies(identity, [account.namespace for account in accounts])
        if copies:
            others = ", ".join(copies)
            reason = f"pods of other namespaces have it ({others}), but type 3 serves only its own namespace"
            do = "podidctl migrate plan -o manifests | kubectl apply -f -, which creates one in each of them"
            remarks.append(Remark(why=reason, do=do))
        remarks += [remark for account in accounts for remark in account_obstacles(self._cluster, identity, account)]
        # The record of an earlier switch stays if a manifest with type 0 is applied again.
        if marked:
            do = "set type: 3 and tenantID in its manifest, where that is stored"
            remarks.append(Remark(why="it was set back to type 0 after the switch", do=do, blocks=False))
        manifests = [manifest for several in copies.values() for manifest in several]
        return self._step(identity, IdentityState.TO_DO, tenant, remarks, manifests)

    def _federated(self, identity: AzureIdentity) -> IdentityStep | UnchangedIdentity:
        """Return the step for resources on Azure of an identity that was created with type 3."""
        chosen = self._cluster.exchange_of(identity).exchange
        if chosen is Exchange.IDENTITY_BINDINGS or self._options.exchange is not None:
            return self._step(identity, IdentityState.FEDERATED, identity.spec.tenant_id, [], [])
        return UnchangedIdentity(
            identity="/".join(identity.key),
            why="it is federated (type 3) already",
            do="no action is required; podidctl migrate plan --exchange prints what an exchange needs on Azure",
        )

    def _switched(self, identity: AzureIdentity) -> IdentityStep:
        behind: list[str] = []
        if not self._cluster.managed:
            behind = lagging_pods(self._state.pods, self._state.bindings, identity, self._cluster.assigned)
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
        accounts = [account for account in self._accounts.get(identity.key, []) if account.namespace == own]
        exchange = self._cluster.exchange_of(identity).exchange
        azures = parse_user_assigned(identity.spec.resource_id)
        # By identity bindings AKS's token proxy presents a credential of its own.
        needed = accounts if exchange is Exchange.DIRECT else []
        return IdentityStep(
            namespace=own,
            name=identity.metadata.name,
            state=state,
            tenant=tenant,
            exchange=exchange,
            resource_id=azures.text if azures else "",
            accounts=accounts,
            credentials=[credential_of(identity, own, account.name, self._options.name_suffix) for account in needed],
            remarks=remarks,
            copies=copies,
        )
