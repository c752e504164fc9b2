"""Link that only a federated identity has: the pod's service account and NMI's permission for its tokens. Pure."""

from collections.abc import Iterator
from typing import Final

from podidctl.diagnosis.input import DiagnosisInput, ReadFailure
from podidctl.diagnosis.service_accounts import account_name, assertion_fault, federated_identities, subject
from podidctl.explain.schema import Link, LinkState, make_link
from podidentity.resources import Pod
from podidentity.telemetry.logs import redacted

LINK_NAME: Final = "service account"


def service_account_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the link of the pod's service account; none if the pod has no federated identity."""
    identities = federated_identities(data, pod)
    if not identities:
        return
    about, account = account_name(pod), data.account
    if (why := assertion_fault(pod, account)) is not None:
        yield make_link(LINK_NAME, about, LinkState.BROKEN, why.says, why.then)
        return
    clients = ", ".join(dict.fromkeys(redacted(each.spec.client_id.strip()) for each in identities))
    trust = f"subject {subject(pod)}, audience {data.configuration.settings.federated_audience}"
    says = (
        f"its token identifies the pod to Azure as {trust}; a federated credential of {clients} must have the same "
        "values"
    )
    open_ = (
        []
        if account is None
        else [each.why for each in (account.nmi_may_request, account.exists) if isinstance(each, ReadFailure)]
    )
    if account is None or open_:
        then = "run this command with more permissions (get on serviceaccounts, create on subjectaccessreviews)"
        unread = f": {'; '.join(open_)}" if open_ else ""
        says = f"{says}; it could not be read whether the account exists and NMI may request its tokens{unread}"
        yield make_link(LINK_NAME, about, LinkState.UNKNOWN, says, then)
    elif account.nmi_may_request is None:
        then = "see podidctl doctor if NMI runs in pods that have its label"
        yield make_link(LINK_NAME, about, LinkState.UNKNOWN, f"{says}; NMI's own service account is not known", then)
    else:
        yield make_link(LINK_NAME, about, LinkState.OK, f"{says}; NMI may request its tokens")
