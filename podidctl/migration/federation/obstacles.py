"""Obstacles and remarks of a federation plan: about the cluster, one AzureIdentity, or one service account. Pure.

A user of the identity that NMI does not serve would lose it with the switch, so such users block it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from nmi.tokens.source import PolicyError
from podidctl.evaluation.daemons import exemption_reasons
from podidctl.evaluation.federated import CREDENTIALS_MAX
from podidctl.migration.federation.planning_input import FederationState, as_federated
from podidctl.migration.federation.schema import AccountUsage, IdentityStep, Remark
from podidctl.migration.workload_identity import is_public, unreachable_issuer
from podidctl.migration.workloads import DEFAULT_ACCOUNT, Key
from podidctl.report.text import listed
from podidentity.azure.federation import Exchange
from podidentity.resources import AzureIdentity, Pod, PodMeta, PodSpec

OLDEST_MINOR: Final = 30
"""The first Kubernetes 1.x in which the chart's ValidatingAdmissionPolicy limits NMI's token requests."""
USES_UNKNOWN: Final = (
    "search the pods' code and settings for api://AzureADTokenExchange; an application that uses an identity's token "
    "as its credential does not work with type 3"
)


def cluster_obstacles(cluster: FederationState, issuer: str, steps: Sequence[IdentityStep]) -> Iterator[Remark]:
    """Yield remarks about the cluster that concern all identities."""
    if cluster.server.is_older(OLDEST_MINOR):
        yield Remark(
            why=f"Kubernetes is {cluster.server.version}, without the admission policies that limit NMI",
            do=f"upgrade the cluster to 1.{OLDEST_MINOR} or later",
        )
    exchanges = {step.exchange for step in steps} or {cluster.default_exchange}
    if Exchange.DIRECT not in exchanges:
        pass  # only AKS's own credentials of the identities have an issuer
    elif not issuer:
        reason = "the cluster does not publish the issuer of its service account tokens"
        yield Remark(why=reason, do="pass --issuer, with the value of the federated credentials", blocks=False)
    elif not is_public(issuer):
        finding = unreachable_issuer(issuer)
        yield Remark(why=f"{finding.about}: {finding.why}", do=finding.do, blocks=False)
    without = [settings.node_name for settings in cluster.nmis if not settings.federated_identities]
    if without:
        yield Remark(
            why=f"NMI runs without --federated-identities on {listed(set(without), 3)}",
            do="set federated.enabled and federated.namespaces in the chart's values",
        )
    audiences = {settings.federated_audience for settings in cluster.nmis}
    if cluster.options.audience and audiences and audiences != {cluster.options.audience}:
        yield Remark(
            why=f"NMI requests tokens with audience {listed(set(audiences), 3)}, not {cluster.options.audience}",
            do="omit --audience, or set federated.audience in the chart's values",
        )
    if cluster.rights_unknown:
        yield Remark(
            why=f"it is unknown which tokens NMI may request: {cluster.rights_unknown}",
            do="check that the chart's federated.namespaces contains every namespace of this plan",
            blocks=False,
        )
    uses = cluster.uses
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
    if cluster.nmi_unknown:
        yield Remark(
            why=f"it is unknown whether NMI serves type 3: {cluster.nmi_unknown}",
            do="check that each NMI runs with --federated-identities",
            blocks=False,
        )


def identity_obstacles(
    cluster: FederationState,
    identity: AzureIdentity,
    tenant: str,
    accounts: Sequence[AccountUsage],
    past_nmi: Sequence[str],
) -> Iterator[Remark]:
    """Yield remarks about *identity*, whose pods have *accounts*, after its switch in *tenant*. *past_nmi*: its
    workloads that NMI does not serve.
    """
    chosen = cluster.exchange_of(identity)
    if chosen.remark is not None:
        yield chosen.remark
    if not tenant:
        yield Remark(
            why="its tenant is not known",
            do="pass --tenant, the output of `az account show --query tenantId -o tsv`",
        )
    else:
        try:
            cluster.policy.federation(as_federated(identity, tenant))
        except PolicyError as error:
            yield Remark(why=error.detail, do="correct it, then run this command again")
    if nodes := cluster.uses.nodes_of(identity, cluster.situation.identities):
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
            blocks=not cluster.options.ignore_uses,
        )
    own = [account for account in accounts if account.namespace == identity.metadata.namespace]
    if not own:
        yield Remark(
            why="no workload or pod of its namespace has it now, so no token can be tested",
            do=(
                "delete it if other namespaces do not need it either, or run this command again when a workload has it"
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
    if past_nmi:
        yield Remark(
            why=(
                f"{listed(set(past_nmi), 3)} gets its tokens from IMDS directly, and loses them when the identity is "
                "detached from its VM"
            ),
            do="bind it to a second AzureIdentity of type 0 with the same resourceID instead of this one",
        )


def account_obstacles(cluster: FederationState, identity: AzureIdentity, account: AccountUsage) -> Iterator[Remark]:
    """Yield remarks about one service account whose pods have *identity*."""
    key = (account.namespace, account.name)
    # Type 3 serves no pod of another namespace; another remark is about those pods.
    if account.namespace != identity.metadata.namespace:
        return
    if key in cluster.forbidden:
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


def workloads_past_nmi(cluster: FederationState) -> Mapping[Key, list[str]]:
    """Return, by AzureIdentity, the workloads that NMI exempts or does not see."""
    exemption_reason = exemption_reasons(cluster.nmis, cluster.exceptions)
    unserved: defaultdict[Key, list[str]] = defaultdict(list)
    for workload in cluster.situation.workloads:
        meta = PodMeta(namespace=workload.namespace, name=workload.name, labels=dict(workload.labels))
        pod = Pod(metadata=meta, spec=PodSpec(host_network=workload.host_network))
        reason = "host network" if workload.host_network else exemption_reason(pod)
        for desired in cluster.situation.desired(workload) if reason else ():
            unserved[desired.identity.key].append(f"{workload.description} ({reason})")
    return unserved
