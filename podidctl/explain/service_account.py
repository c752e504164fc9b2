"""Link that only a federated identity has: the pod's service account and NMI's permission for its tokens. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from nmi.tokens.source import PolicyError
from podidctl.diagnosis.exchanges import audience_of, exchange_of
from podidctl.diagnosis.identity_permissions import REVIEW_ACCESS
from podidctl.diagnosis.input import DiagnosisInput, ReadFailure, ServiceAccountAccess
from podidctl.diagnosis.service_accounts import account_name, assertion_fault, federated_identities, subject
from podidctl.explain.schema import Link, LinkState, make_link
from podidentity.azure.federation import BINDING_VERB, Exchange
from podidentity.resources import AzureIdentity, Pod
from podidentity.telemetry.logs import redacted

LINK_NAME: Final = "service account"
READ_ACCOUNT: Final = "get on serviceaccounts"


def service_account_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the link of the pod's service account; none if the pod has no federated identity."""
    identities = federated_identities(data, pod)
    if not identities:
        return
    about, account = account_name(pod), data.account
    if (why := assertion_fault(pod, account)) is not None:
        yield make_link(LINK_NAME, about, LinkState.BROKEN, why.says, why.then)
        return
    says = "; ".join(_trusts(data, pod, identities))
    if account is None:
        then = f"run this command with more permissions ({READ_ACCOUNT}, {REVIEW_ACCESS})"
        says = f"{says}; it could not be read whether the account exists and NMI may request its tokens"
        yield make_link(LINK_NAME, about, LinkState.UNKNOWN, says, then)
    elif unread := list(_unread(account)):
        says = "; ".join([says, *(f"it could not be read whether {each.what}: {each.failure.why}" for each in unread)])
        then = "; ".join(_next_actions(unread))
        yield make_link(LINK_NAME, about, LinkState.UNKNOWN, says, then)
    elif account.nmi_may_request is None:
        then = "see podidctl doctor if NMI runs in pods that have its label"
        yield make_link(LINK_NAME, about, LinkState.UNKNOWN, f"{says}; NMI's own service account is not known", then)
    else:
        yield make_link(LINK_NAME, about, LinkState.OK, f"{says}; NMI may request its tokens")


class _Unread(NamedTuple):
    what: str
    failure: ReadFailure
    permission: str
    """The operator's permission that the read needs."""


def _unread(account: ServiceAccountAccess) -> Iterator[_Unread]:
    if isinstance(account.exists, ReadFailure):
        yield _Unread("the account exists", account.exists, READ_ACCOUNT)
    if isinstance(account.nmi_may_request, ReadFailure):
        yield _Unread("NMI may request its tokens", account.nmi_may_request, REVIEW_ACCESS)


def _next_actions(unread: Sequence[_Unread]) -> Iterator[str]:
    """Yield the next action for the forbidden reads, and for those that failed."""
    for forbidden in (True, False):
        if its := [each for each in unread if each.failure.is_forbidden is forbidden]:
            yield its[0].failure.next_action(", ".join(each.permission for each in its))


def _trusts(data: DiagnosisInput, pod: Pod, identities: Sequence[AzureIdentity]) -> Iterator[str]:
    """Yield for each exchange the values of the pod's token, and the object that must trust them."""
    settings = data.configuration.settings
    clients: dict[Exchange, dict[str, None]] = {}
    for each in identities:
        try:
            exchange = exchange_of(settings, each)
        except PolicyError:  # the link of the identity has the reason
            exchange = settings.federated_exchange
        clients.setdefault(exchange, {})[redacted(each.spec.client_id.strip())] = None
    for exchange, its in sorted(clients.items()):
        trust = f"subject {subject(pod)}, audience {audience_of(settings, exchange)}"
        if exchange is Exchange.DIRECT:
            yield (
                f"its token identifies the pod to Azure as {trust} (exchange {exchange}); a federated credential of "
                f"{', '.join(its)} must have the same values"
            )
        else:
            yield (
                f"its token identifies the pod to the cluster's token proxy as {trust} (exchange {exchange}); the "
                f"cluster needs an identity binding of {', '.join(its)}, and the service account the permission "
                f"{BINDING_VERB}"
            )
