"""Obstacles and remarks of a federation plan: about the cluster, one AzureIdentity, or one service account. Pure.

A user of the identity that NMI does not serve would lose it with the switch, so such users block it.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from nmi.tokens.source import PolicyError
from podidctl.evaluation.daemons import exemption_reasons
from podidctl.evaluation.federated import CREDENTIALS_MAX
from podidctl.migration.federation.planning_input import ChosenExchange, FederationState, as_federated
from podidctl.migration.federation.schema import AccountUsage, IdentityStep, Remark
from podidctl.migration.workload_identity import is_public, unreachable_issuer
from podidctl.migration.workloads import DEFAULT_ACCOUNT, Key
from podidctl.report.text import listed
from podidentity.azure.federation import Exchange
from podidentity.resources import AzureIdentity, Pod, PodMeta, PodSpec

KUBERNETES_MIN: Final = (1, 30)
"""The first version of Kubernetes in which the chart's ValidatingAdmissionPolicy limits NMI's token requests."""
USES_UNKNOWN: Final = (
    "search the pods' code and settings for api://AzureADTokenExchange; an application that uses an identity's token "
    "as its credential does not work with type 3"
)
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


class Obstacles:
    """The remarks about one cluster."""

    def __init__(self, cluster: FederationState) -> None:
        self._cluster = cluster
        self._options = cluster.options
        self._policy = cluster.policy
        self._state = cluster.situation
        self._exemption_reason = exemption_reasons(cluster.nmis, cluster.exceptions)
        self._not_served_by_nmi = self._find_not_served_by_nmi()

    def of_cluster(self, issuer: str, steps: Sequence[IdentityStep]) -> Iterator[Remark]:
        """Yield remarks about the cluster that concern all identities."""
        version = _VERSION.match(self._cluster.version)
        if version is not None and (int(version[1]), int(version[2])) < KUBERNETES_MIN:
            yield Remark(
                why=f"Kubernetes is {self._cluster.version}, without the admission policies that limit NMI",
                do="upgrade the cluster to 1.30 or later",
            )
        exchanges = {step.exchange for step in steps} or {self._cluster.default_exchange}
        if Exchange.DIRECT not in exchanges:
            pass  # only AKS's own credentials of the identities have an issuer
        elif not issuer:
            reason = "the cluster does not publish the issuer of its service account tokens"
            yield Remark(why=reason, do="pass --issuer, with the value of the federated credentials", blocks=False)
        elif not is_public(issuer):
            finding = unreachable_issuer(issuer)
            yield Remark(why=f"{finding.about}: {finding.why}", do=finding.do, blocks=False)
        without = [settings.node_name for settings in self._cluster.nmis if not settings.federated_identities]
        if without:
            yield Remark(
                why=f"NMI runs without --federated-identities on {listed(set(without), 3)}",
                do="set federated.enabled and federated.namespaces in the chart's values",
            )
        audiences = {settings.federated_audience for settings in self._cluster.nmis}
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
        uses = self._cluster.uses
        if uses.unread:
            yield Remark(
                why=(
                    "it is unknown whether applications use tokens of identities as credentials: "
                    f"{listed(uses.unread, 3)}: {next(iter(uses.unread.values()))}"
                ),
                do=USES_UNKNOWN,
                blocks=False,
            )
        if uses.incomplete:
            yield Remark(
                why=(
                    f"applications use tokens of more identities as credentials than NMI records by name on "
                    f"{listed(uses.incomplete, 3)}"
                ),
                do=USES_UNKNOWN,
                blocks=False,
            )
        if self._cluster.nmi_unknown:
            yield Remark(
                why=f"it is unknown whether NMI serves type 3: {self._cluster.nmi_unknown}",
                do="check that each NMI runs with --federated-identities",
                blocks=False,
            )

    def of_identity(
        self, identity: AzureIdentity, tenant: str, accounts: Sequence[AccountUsage], chosen: ChosenExchange
    ) -> Iterator[Remark]:
        """Yield remarks about *identity*, whose pods have *accounts*, after its switch to *chosen* in *tenant*."""
        if chosen.remark is not None:
            yield chosen.remark
        if not tenant:
            yield Remark(
                why="its tenant is not known",
                do="pass --tenant, the output of `az account show --query tenantId -o tsv`",
            )
        else:
            try:
                self._policy.federation(as_federated(identity, tenant))
            except PolicyError as error:
                yield Remark(why=error.detail, do="correct it, then run this command again")
        if nodes := self._cluster.uses.nodes_of(identity, self._state.identities):
            yield Remark(
                why=(
                    f"NMI has fetched its token for api://AzureADTokenExchange on {listed(nodes, 3)}: an application "
                    "uses it as its credential, which Entra ID refuses for type 3 (AADSTS700231)"
                ),
                do=(
                    "give the application a federated credential for the service account, or bind its pods to a second "
                    "AzureIdentity of type 0 with the same resourceID; if that use has ended, switch it with "
                    "--ignore-application-credentials"
                ),
                blocks=not self._options.ignore_uses,
            )
        own = [account for account in accounts if account.namespace == identity.metadata.namespace]
        if not own:
            yield Remark(
                why="no workload or pod of its namespace has it now, so no token can be tested",
                do=(
                    "delete it if other namespaces do not need it either, or run this command again when a workload "
                    "has it"
                ),
            )
        if len(own) > CREDENTIALS_MAX and chosen.exchange is Exchange.DIRECT:
            yield Remark(
                why=f"it would need {len(own)} federated credentials, and Azure allows {CREDENTIALS_MAX}",
                do=(
                    "let workloads share service accounts, give them separate identities, or on AKS use identity "
                    "bindings, which need no credential for each service account (--exchange identityBindings)"
                ),
            )
        if around := self._not_served_by_nmi.get(identity.key):
            yield Remark(
                why=(
                    f"{listed(set(around), 3)} gets its tokens from IMDS directly, and loses them when the identity is "
                    "detached from its VM"
                ),
                do="bind it to a second AzureIdentity of type 0 with the same resourceID instead of this one",
            )

    def of_account(self, identity: AzureIdentity, account: AccountUsage) -> Iterator[Remark]:
        """Yield remarks about one service account whose pods have *identity*."""
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
        unserved: defaultdict[Key, list[str]] = defaultdict(list)
        for workload in self._state.workloads:
            meta = PodMeta(namespace=workload.namespace, name=workload.name, labels=dict(workload.labels))
            pod = Pod(metadata=meta, spec=PodSpec(host_network=workload.host_network))
            reason = "host network" if workload.host_network else self._exemption_reason(pod)
            for desired in self._state.desired(workload) if reason else ():
                unserved[desired.identity.key].append(f"{workload.description} ({reason})")
        return unserved
