"""The link that only a federated identity has: the pod's service account, and NMI's right to its tokens. Pure."""

from collections.abc import Iterator
from typing import Final

from podidctl.explain.shapes import Link, State, linked
from podidctl.inquiry.accounts import federated, name_of, subject, unproved
from podidctl.inquiry.facts import Facts, Unread
from podidentity.resources import Pod
from podidentity.telemetry.logs import redacted

LINK: Final = "service account"


def on_account(facts: Facts, pod: Pod) -> Iterator[Link]:
    """What the pod proves itself by; nothing where no federated identity is meant for it."""
    identities = federated(facts, pod)
    if not identities:
        return
    about, account = name_of(pod), facts.account
    if (why := unproved(pod, account)) is not None:
        yield linked(LINK, about, State.BROKEN, why.says, why.then)
        return
    clients = ", ".join(dict.fromkeys(redacted(each.spec.client_id.strip()) for each in identities))
    trust = f"subject {subject(pod)}, audience {facts.rules.settings.federated_audience}"
    says = f"it proves the pod to Azure as {trust}; a federated credential of {clients} must say the same"
    open_ = (
        [] if account is None else [each.why for each in (account.nmi_may, account.there) if isinstance(each, Unread)]
    )
    if account is None or open_:
        then = "ask with more rights (get on serviceaccounts, create on subjectaccessreviews)"
        unread = f": {'; '.join(open_)}" if open_ else ""
        says = f"{says}; whether it is there and NMI may ask for its tokens could not be read{unread}"
        yield linked(LINK, about, State.UNKNOWN, says, then)
    elif account.nmi_may is None:
        then = "see podidctl doctor where NMI runs in pods that have its label"
        yield linked(LINK, about, State.UNKNOWN, f"{says}; NMI's own service account is not known", then)
    else:
        yield linked(LINK, about, State.OK, f"{says}; NMI may ask for its tokens")
