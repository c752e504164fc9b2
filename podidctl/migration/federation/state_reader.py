"""Reader of the state for a federation plan: lists, access reviews about NMI, and NMI's metrics. Makes no changes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from nmi.settings import NmiSettings
from podidctl.evaluation.needs import token_review
from podidctl.facts.kinds import Daemon, service_account_of
from podidctl.facts.settings import genuine_nmi, is_managed, nmi_settings, readable_configurations
from podidctl.migration import cluster_reader
from podidctl.migration.federation.identity_users import account_usages
from podidctl.migration.federation.planning_input import NO_USES, CredentialUses, FederationState, PlanOptions
from podidctl.migration.workloads import Key
from podidctl.reading.daemons import MetricsPage, Unread, list_daemons, read_pages
from podidctl.reading.requests import decoded, read_server
from podidctl.reading.reviews import denied
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, NotFound
from podidentity.report import plain
from podidentity.resources import ASSIGNED_IDENTITIES, EXCEPTIONS, Wire

WEBHOOKS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
WEBHOOK: Final = "azure-workload-identity"
"""Part of the name of the webhook that provides the settings of the SDKs to pods."""
TOKENS: Final = "aadpodidentity_nmi_application_credential_tokens_total"
UNRECORDED: Final = "aadpodidentity_nmi_application_credential_tokens_unrecorded_total"
NAMES_MAX: Final = 1000
"""The maximum number of identities that are read from one page of metrics. NMI reports fewer."""
ALL_SECONDS: Final = 30.0
"""The time limit for the pages of all NMIs."""


async def read_federation_state(
    client: Client, options: PlanOptions, *, force_namespaced: bool, uses: CredentialUses = NO_USES
) -> FederationState:
    """Return the state. *uses* is read separately, because that takes longer. Raises ApiError if data that every plan
    needs cannot be read.
    """
    situation = await cluster_reader.read_workload_state(client, force_namespaced=force_namespaced)
    pods = genuine_nmi(await list_daemons(client, "nmi"))
    nmis, unknown = _settings(pods)
    managed = is_managed(readable_configurations(pods))
    accounts = {(user.namespace, user.name) for users in account_usages(situation).values() for user in users}
    forbidden, rights_unknown = await _forbidden(client, pods, accounts)
    return FederationState(
        situation=situation,
        options=options,
        issuer=await cluster_reader.read_issuer(client),
        server=await read_server(client),
        exceptions=await cluster_reader.list_if_served(client, EXCEPTIONS),
        # In managed mode there is no MIC, and NMI serves identities without these objects.
        assigned=[] if managed else await cluster_reader.list_if_served(client, ASSIGNED_IDENTITIES),
        managed=managed,
        nmis=nmis,
        nmi_unknown=unknown,
        forbidden=forbidden,
        rights_unknown=rights_unknown,
        uses=uses,
        webhook=await _webhook(client),
    )


async def is_cluster_managed(client: Client) -> bool:
    """Return whether NMI runs in managed mode, without MIC. Raises ApiError."""
    return is_managed(readable_configurations(genuine_nmi(await list_daemons(client, "nmi"))))


async def read_credential_uses(client: Client) -> CredentialUses:
    """Return the uses in the metrics of all NMIs that respond within ALL_SECONDS.

    Raise ApiError if NMI's pods cannot be listed.
    """
    return combined(await read_pages(client, lambda daemon, page: (daemon.spec.node_name, page), ALL_SECONDS))


def combined(pages: Iterable[tuple[str, MetricsPage | Unread]]) -> CredentialUses:
    """Return the uses in *pages*, which are pairs of a node and the metrics of its NMI."""
    nodes: defaultdict[str, set[str]] = defaultdict(set)
    incomplete: set[str] = set()
    unread: dict[str, str] = {}
    for node, page in pages:
        if isinstance(page, Unread):
            unread[node] = page.problem
            continue
        try:
            names, further = parse(page.text)
        except ValueError as error:
            unread[node] = plain(f"{error}; check that port {page.port} is NMI's --prometheus-port, and its version")
            continue
        for name in names:
            nodes[name].add(node)
        if further:
            incomplete.add(node)
    return CredentialUses(nodes, incomplete, unread)


def parse(text: str) -> tuple[list[str], bool]:
    """Return the AzureIdentities with such tokens in *text*, and whether NMI has counted others without their names.

    *text* is the untrusted content of /metrics. Raise ValueError if it does not have these metrics.
    """
    metric_lines = "".join(f"{line}\n" for line in text.split("\n") if line.startswith((TOKENS, UNRECORDED)))
    try:
        samples = [sample for family in text_string_to_metric_families(metric_lines) for sample in family.samples]
    except (KeyError, IndexError, ArithmeticError) as error:
        raise ValueError(f"the metrics cannot be parsed: {error}") from error
    further = [sample.value for sample in samples if sample.name == UNRECORDED]
    if not further:
        raise ValueError("the page has no record of credentials of applications")
    names = [sample.labels.get("identity", "") for sample in samples if sample.name == TOKENS and sample.value > 0]
    return names[:NAMES_MAX], any(count > 0 for count in further) or len(names) > NAMES_MAX


def _settings(pods: Sequence[Daemon]) -> tuple[list[NmiSettings], str]:
    """Return the settings of the NMIs, and why one of them is unknown."""
    if not pods:
        return [], "no pod has NMI's label (app.kubernetes.io/component=nmi, component=nmi)"
    settings: list[NmiSettings] = []
    unknown = ""
    for pod in pods:
        try:
            settings.append(nmi_settings(pod))
        except UsageError as error:
            unknown = f"{pod.name}: {error}"
    return settings, unknown


async def _forbidden(client: Client, nmi: Sequence[Daemon], accounts: Iterable[Key]) -> tuple[set[Key], str]:
    """Return the service accounts whose tokens an NMI may not request, and why this is unknown, if so."""
    its = sorted({service_account_of(daemon) for daemon in nmi})
    reviews = [token_review(own, "/".join(account)) for account in sorted(accounts) for own in its]
    try:
        return {(review.namespace, review.name) for review in await denied(client, reviews)}, ""
    except (Forbidden, NotFound) as error:  # reviews need a permission that the other reads do not
        return set(), error.message


class _Hook(Wire, frozen=True):
    name: str = ""


class _Configuration(Wire, frozen=True):
    webhooks: list[_Hook] | None = None


class _Configurations(Wire, frozen=True):
    items: list[_Configuration]


async def _webhook(client: Client) -> bool | None:
    """Return whether workload identity's webhook is installed; None if unknown."""
    try:
        # As a whole: a configuration that cannot be decoded may be the webhook's.
        configurations = decoded(await client.request("GET", WEBHOOKS), _Configurations, "the webhooks").items
    except ApiError:
        return None
    return any(WEBHOOK in hook.name for configuration in configurations for hook in configuration.webhooks or ())
