"""Commands of the Azure CLI that create federated credentials. Pure."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from nmi.error_refusals import OTHER_AUDIENCE, UNTRUSTED_CODES, untrusted_text
from nmi.refusal import Reason
from podidctl.facts.model import RecentRefusal
from podidctl.report.text import printable_json
from podidentity.azure.identity_permissions import is_grantable
from podidentity.azure.resource_ids import parse_user_assigned
from podidentity.resources import AzureIdentity, IdentityType

SUFFIX_MAX: Final = 40
"""Maximum length of a suffix of such a name."""
_NAME_MAX: Final = 120
"""Maximum length of a federated credential's name."""
_INVALID_CHARACTER: Final = re.compile(r"[^A-Za-z0-9_-]")
# No character that a shell interprets: the operator runs the command, and tenants choose parts of the values.
_PLAIN: Final = re.compile(r"[A-Za-z0-9:/._~-]+")


def credential_name(namespace: str, account: str, suffix: str = "") -> str:
    """Return a valid name on Azure that is unique per service account of one cluster.

    *suffix* distinguishes clusters that use one identity: Azure replaces a credential of the same name. It has only
    characters of such names and at most SUFFIX_MAX of them.
    """
    end = f"-{suffix}" if suffix else ""
    plain = f"{namespace}-{account}"  # not unique if the namespace has a hyphen: a-b/c and a/b-c
    if not _INVALID_CHARACTER.search(plain) and len(plain) + len(end) <= _NAME_MAX and "-" not in namespace:
        return plain + end
    end = f"-{sha256(f'{namespace}/{account}'.encode()).hexdigest()[:8]}{end}"
    return f"{_INVALID_CHARACTER.sub('-', plain)[: _NAME_MAX - len(end)]}{end}"


def creation(owner: tuple[str, str, str], name: str, issuer: str, subject: str, audience: str) -> str:
    """Return the command for the managed identity *owner*: subscription, resource group and name."""
    subscription, group, identity = owner
    words = ["--subscription", subscription, "--resource-group", group, "--identity-name", identity, "--name", name]
    return f"az identity federated-credential create {shlex.join([*words, *_values(issuer, subject, audience)])}"


def application_creation(client_id: str, parameters: Mapping[str, Any]) -> str:
    """Return the command for the application *client_id*."""
    words = ["--id", client_id, "--parameters", printable_json(json.dumps(parameters))]
    return f"az ad app federated-credential create {shlex.join(words)}"


def parameters_of(name: str, issuer: str, subject: str, audience: str) -> dict[str, Any]:
    """Return a federated credential in the format of Azure's APIs."""
    return {"name": name, "issuer": issuer, "subject": subject, "audiences": [audience]}


def _values(issuer: str, subject: str, audience: str) -> Sequence[str]:
    return ("--issuer", issuer, "--subject", subject, "--audiences", audience)


def correction(identity: AzureIdentity, refusal: RecentRefusal, subject: str, audience: str) -> str:
    """Return the command that creates or updates the credential which a token of *identity* needs; empty if *refusal*
    has another cause. *subject* and *audience* are those of the pod's token.

    Only the issuer is from the text. A pod and Azure choose parts of other texts in NMI's log, and others than NMI may
    write Events. So the text must be exactly NMI's own about these values, from its log.
    """
    client_id, owner = identity.spec.client_id.strip(), _owner(identity)
    if refusal.reason != Reason.UPSTREAM_REFUSED or identity.spec.type != IdentityType.FEDERATED or not owner:
        return ""
    for code in UNTRUSTED_CODES:
        before, after = untrusted_text(code, "\0", subject, audience, client_id).split("\0")
        issuer = refusal.text.removeprefix(before).removesuffix(after)
        if f"{before}{issuer}{after}" == refusal.text and all(map(_PLAIN.fullmatch, (issuer, subject, audience))):
            return _command(code, owner, identity, (issuer, subject, audience))
    return ""


def _command(code: str, owner: str, identity: AzureIdentity, trust: tuple[str, str, str]) -> str:
    issuer, subject, _ = trust
    _, _, namespace, account = subject.split(":")
    verb, name = "create", credential_name(namespace, account, _suffix(issuer))
    if code == OTHER_AUDIENCE:
        # Azure permits one credential for an issuer and a subject.
        query = f"[?issuer=='{issuer}' && subject=='{subject}'].name"
        verb, name = "update", f'"$(az identity federated-credential list {owner} --query "{query}" -o tsv)"'
    command = f"az identity federated-credential {verb} {owner} --name {name} {shlex.join(_values(*trust))}"
    # A client id alone may also be that of an application, which no list of a managed identity contains.
    if identity.spec.resource_id.strip() or verb == "update":
        return command
    other = application_creation(identity.spec.client_id.strip().lower(), parameters_of(name, *trust))
    return f"{command}; or, for an application: {other}"


def _suffix(issuer: str) -> str:
    """Return a suffix for the names of a cluster's credentials: Azure replaces a credential of the same name."""
    return sha256(issuer.encode()).hexdigest()[:8]


def _owner(identity: AzureIdentity) -> str:
    """Return the flags that name the managed identity, for a shell; empty if it is not known."""
    if there := parse_user_assigned(identity.spec.resource_id):
        names = ("--subscription", there.subscription, "--resource-group", there.resource_group)
        return shlex.join([*names, "--identity-name", there.name])
    client = identity.spec.client_id.strip().lower()
    if not is_grantable(client):  # not a GUID, and tenants choose it
        return ""
    group, name = (
        f'"$(az identity list --query "[?clientId==\'{client}\'].{field}" -o tsv)"'
        for field in ("resourceGroup", "name")
    )
    return f"--resource-group {group} --identity-name {name}"
