"""Identities of type 0 with tokens that an application uses as its own credential, read from NMI's metrics.

Such an application requests a token of its identity for api://AzureADTokenExchange, and presents this token to Entra ID
instead of a secret. An identity of type 3 cannot get such a token (AADSTS700231), so its migration would break the
application. NMI's metrics count the fetches of these tokens since NMI started.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from podidctl.reading.daemons import MetricsPage, Unread, read_pages
from podidctl.report.text import listed
from podidentity.kube.client import Client
from podidentity.report import plain
from podidentity.resources import AzureIdentity

TOKENS: Final = "aadpodidentity_nmi_application_credential_tokens_total"
UNRECORDED: Final = "aadpodidentity_nmi_application_credential_tokens_unrecorded_total"
NAMES_MAX: Final = 1000
"""The maximum number of identities that are read from one page of metrics. NMI reports fewer."""
ALL_SECONDS: Final = 30.0
"""The time limit for the pages of all NMIs."""


@dataclass(frozen=True)
class CredentialUses:
    """The fetches of such tokens that all NMIs have counted."""

    nodes: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The nodes on which NMI has fetched such a token, by AzureIdentity (`namespace/name`)."""
    incomplete: Collection[str] = ()
    """The nodes on which NMI has counted more identities than it reports by name."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """The reason why the metrics of a node could not be read, by node."""

    def nodes_of(self, identity: AzureIdentity, all_identities: Sequence[AzureIdentity]) -> list[str]:
        """Return the nodes on which NMI has fetched such a token of *identity*.

        Several AzureIdentities can have the same client id or resource id. They share NMI's cached token, and NMI
        counts its fetch for one of them. So the result includes the nodes of all of them.
        """
        ours = _ids(identity)
        names = ["/".join(each.key) for each in all_identities if _ids(each) & ours or each.key == identity.key]
        return sorted({node for name in names for node in self.nodes.get(name, ())})


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
    known = "".join(f"{line}\n" for line in text.split("\n") if line.startswith((TOKENS, UNRECORDED)))
    try:
        samples = [each for family in text_string_to_metric_families(known) for each in family.samples]
    except (KeyError, IndexError, ArithmeticError) as error:
        raise ValueError(f"the metrics cannot be parsed: {error}") from error
    further = [each.value for each in samples if each.name == UNRECORDED]
    if not further:
        raise ValueError("the page has no record of credentials of applications")
    names = [each.labels.get("identity", "") for each in samples if each.name == TOKENS and each.value > 0]
    return names[:NAMES_MAX], any(each > 0 for each in further) or len(names) > NAMES_MAX


NO_USES: Final = CredentialUses()
"""The uses in a cluster without NMI."""


def unread_text(uses: CredentialUses) -> str:
    """Return the nodes whose metrics could not be read, and the reason of the first one."""
    return f"{listed(uses.unread, 3)}: {next(iter(uses.unread.values()))}"


def _ids(identity: AzureIdentity) -> set[str]:
    spec = identity.spec
    return {each.strip().lower() for each in (spec.client_id, spec.resource_id)} - {""}
