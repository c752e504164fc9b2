"""Permission checks of service accounts by SubjectAccessReview, which the API server answers without storing it, and
checks of Secrets by NMI's own reader. No value of a Secret leaves this module.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from mic.startup.settings import Settings as MicSettings
from mic.startup.type_upgrade import UpgradeRecord
from nmi.settings import Settings
from nmi.tokens.assertions import SERVICE_ACCOUNTS
from nmi.tokens.endpoints import Application
from nmi.tokens.secrets import CredentialError, Secrets
from podidctl.access.cluster_objects import Rbac
from podidctl.access.projections import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES
from podidctl.evaluation.federated import account_name
from podidctl.evaluation.needs import (
    ACCOUNTS_MAX,
    NAMESPACES_MAX,
    NOT_READ,
    REVIEWS_MAX,
    SECRETS_MAX,
    USES_MAX,
    BindingUse,
    DaemonAccount,
    binding_uses,
    bound_uses,
    has_use,
    namespaces_of,
    review_resources,
    served_pairs,
)
from podidctl.evaluation.rights import mic_rights, nmi_rights, upgrade_rights
from podidctl.evaluation.tokens import application_of
from podidctl.facts.kinds import Daemon, service_account_of
from podidctl.facts.model import (
    DaemonUse,
    DaemonUses,
    FederatedAccess,
    IdentityKey,
    IdentityPermissions,
    Objects,
    ReadFailure,
    Right,
    Rights,
    SecretAccess,
    SecretCheck,
    readable,
)
from podidctl.facts.settings import is_managed, mic_settings, readable_configurations
from podidctl.reading.requests import in_batches, or_failure
from podidctl.report.text import by_turns, namespace_of
from podidentity.azure.errors import AzureError
from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB
from podidentity.azure.identity_permissions import ALL_IDENTITIES, permission_resource
from podidentity.flags import UsageError
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, IdentityType

REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Decision(msgspec.Struct, frozen=True):
    """The API server's decision."""

    allowed: bool = False
    reason: str = ""
    """Untrusted; RBAC names the binding and the role."""


class _Review(msgspec.Struct):
    status: Decision = Decision()


async def is_allowed(client: Client, account: str, **attributes: str) -> bool:
    """Return whether *account* has the permission that *attributes* (`spec.resourceAttributes`) describe. Raises
    ApiError.
    """
    return (await _decision(client, account, **attributes)).allowed


async def _decision(client: Client, account: str, **attributes: str) -> Decision:
    namespace, name = account.split("/")
    spec = {
        "user": f"system:serviceaccount:{namespace}:{name}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "resourceAttributes": attributes,
    }
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = await client.request("POST", REVIEWS, body=msgspec.json.encode(body))
    return msgspec.json.decode(answer, type=_Review).status


async def may_request_tokens(client: Client, account: str, namespace: str, service_account: str) -> bool:
    """Return whether NMI's *account* may request tokens of that service account. Raises ApiError."""
    return await is_allowed(
        client,
        account,
        verb="create",
        group="",
        resource="serviceaccounts",
        subresource="token",
        namespace=namespace,
        name=service_account,
    )


async def may_use_identity(client: Client, account: str, client_id: str) -> bool:
    """Return whether the service account *account* (`namespace/name`) may use the identity at the token proxy. Raises
    ApiError.
    """
    return (await identity_decision(client, account, client_id)).allowed


async def identity_decision(client: Client, account: str, client_id: str) -> Decision:
    """Return whether *account* may use the identity at the token proxy, with the reason; `*` for all identities.
    Raises ApiError.
    """
    resource = permission_resource(client_id)
    return await _decision(client, account, verb=BINDING_VERB, group=BINDING_GROUP, resource=resource)


async def read_identity_permissions(
    client: Client, account: str, resources: Sequence[str], limit: int
) -> IdentityPermissions:
    """Return the permissions of one service account, with at most *limit* requests. Raises ApiError."""
    checked = resources[:limit]
    allowed = await in_batches(partial(may_use_identity, client, account, each) for each in checked)
    return IdentityPermissions(dict(zip(checked, allowed, strict=True)))


async def read_secret_checks(
    client: Client, settings: Settings, identities: Iterable[AzureIdentity]
) -> Mapping[IdentityKey, SecretCheck]:
    """Return the check of each service principal's Secret, by the identity's key. Identities without one are left out.

    The first SECRETS_MAX are read, and the others are NOT_READ. Raises ApiError only if the API server does not
    respond.
    """
    secrets = Secrets(client)
    applications = [(each.key, found) for each in identities if (found := application_of(settings, each)) is not None]
    read = applications[:SECRETS_MAX]
    checks = await in_batches(partial(_secret_check, secrets, application) for _, application in read)
    result: dict[IdentityKey, SecretCheck] = {key: NOT_READ for key, _ in applications}
    result.update((key, check) for (key, _), check in zip(read, checks, strict=True))
    return result


async def _secret_check(secrets: Secrets, application: Application) -> SecretCheck:
    try:
        if application.type == IdentityType.SECRET:
            await secrets.client_secret(application)
        else:
            await secrets.key_store(application)
    except CredentialError as error:
        # The text of `secret_forbidden` is about NMI's permission. Here the caller of the command lacks it.
        if error.code == "secret_forbidden":
            return ReadFailure(f"you may not get Secret {application.secret}")
        return error
    except AzureError as error:
        return ReadFailure(error.message)
    return None


async def read_federated_access(
    client: Client, objects: Objects | ReadFailure, nmi: tuple[Daemon, ...] | ReadFailure
) -> FederatedAccess:
    """Return this state. Reads nothing if no pod has a federated identity. Raises NoResponse."""
    pairs = served_pairs(objects) if isinstance(objects, Objects) else []
    pods = [pod for pod, _ in pairs]
    namespaces = sorted({each.metadata.namespace for each in pods})
    accounts = {each: await or_failure(_service_accounts(client, each)) for each in namespaces}
    names = sorted({account_name(each) for each in pods if each.spec.service_account_name})
    ours = readable(nmi)
    its = sorted(
        {
            service_account_of(each)
            for each in ours
            if any(one.settings.federated_identities for one in readable_configurations([each]))
        }
    )
    checked = by_turns(names, namespace_of)[:ACCOUNTS_MAX]
    uses = by_turns(binding_uses(pairs, ours), lambda use: use.namespace)
    checked_uses = uses[:USES_MAX]
    return FederatedAccess(
        accounts,
        await or_failure(_forbidden(client, its, checked)),
        unchecked=len(names) - len(checked) if its else 0,
        unpermitted=await or_failure(_unpermitted(client, checked_uses)),
        unchecked_uses=len(uses) - len(checked_uses),
    )


async def _service_accounts(client: Client, namespace: str) -> frozenset[str]:
    return frozenset({each.metadata.name for each in await client.list(SERVICE_ACCOUNTS, namespace)})


async def _unpermitted(client: Client, uses: Sequence[BindingUse]) -> dict[str, tuple[str, ...]]:
    allowed = await in_batches(partial(may_use_identity, client, each.account, each.client_id) for each in uses)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for use, may in zip(uses, allowed, strict=True):
        if not may:
            found[use.client_id].append(use.account)
    return {client_id: tuple(sorted(accounts)) for client_id, accounts in found.items()}


async def _forbidden(client: Client, its: Sequence[str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for account in its:
        allowed = await in_batches(partial(may_request_tokens, client, account, *each.split("/")) for each in names)
        found[account] = tuple(name for name, may in zip(names, allowed, strict=True) if not may)
    return found


async def secret_access(
    client: Client, objects: Objects | ReadFailure, nmi: Sequence[Daemon] | ReadFailure
) -> tuple[SecretAccess, ...]:
    """Return one value per service account of NMI; none if the identities could not be read. Raises ApiError."""
    if isinstance(objects, ReadFailure) or isinstance(nmi, ReadFailure):
        return ()
    existing = {each.metadata.namespace for each in objects.identities}
    needed: dict[str, set[str]] = {}
    for each in nmi:
        cross = any(one.settings.allow_cross_namespace_secrets for one in readable_configurations([each]))
        own = namespaces_of(objects.identities, cross_namespace=cross)
        needed.setdefault(service_account_of(each), set()).update(own)
    found = []
    for account, namespaces in needed.items():
        everywhere = await _may_get(client, account, "")
        # With --allow-cross-namespace-secrets an AzureIdentity may name any text as the namespace of its Secret.
        names = sorted(namespaces, key=lambda name: (name not in existing, name))
        checked = () if everywhere else names[:NAMESPACES_MAX]
        allowed = await in_batches(partial(_may_get, client, account, each) for each in checked)
        forbidden = tuple(name for name, may in zip(checked, allowed, strict=True) if not may)
        unchecked = 0 if everywhere else len(names) - len(checked)
        found.append(SecretAccess(account, everywhere, tuple(sorted(names)), forbidden, unchecked))
    return tuple(found)


async def _may_get(client: Client, account: str, namespace: str) -> bool:
    return await is_allowed(client, account, verb="get", group="", resource="secrets", namespace=namespace)


async def read_daemon_uses(
    client: Client,
    objects: Objects | ReadFailure,
    nmi: Sequence[Daemon] | ReadFailure,
    mic: Sequence[Daemon] | ReadFailure,
) -> DaemonUses:
    """Return these permissions. Reads nothing if no NMI uses identity bindings. Raises NoResponse."""
    daemons = [] if isinstance(nmi, ReadFailure) else [("NMI", each) for each in nmi]
    settings = [each.settings for each in readable_configurations([each for _, each in daemons])]
    resources = review_resources(settings, objects.identities if isinstance(objects, Objects) else ())
    if not resources:
        return DaemonUses()
    daemons += [] if isinstance(mic, ReadFailure) else [("MIC", each) for each in mic]
    accounts = sorted({DaemonAccount(program, service_account_of(each)) for program, each in daemons})
    rbac = await or_failure(_cluster_rbac(client))
    bound = rbac if isinstance(rbac, ReadFailure) else tuple(bound_uses(rbac, accounts))
    wanted = [(account, each) for each in resources for account in accounts if not has_use(bound, account, each)]
    reviewed = await or_failure(_reviewed_uses(client, wanted[:REVIEWS_MAX]))
    return DaemonUses(bound, reviewed, max(0, len(wanted) - REVIEWS_MAX))


async def _cluster_rbac(client: Client) -> Rbac:
    # A RoleBinding gives no permission for the proxy's review, which has no namespace.
    return Rbac(
        cluster_roles=tuple(await client.list(CLUSTER_ROLES)),
        cluster_role_bindings=tuple(await client.list(CLUSTER_ROLE_BINDINGS)),
    )


async def _reviewed_uses(client: Client, wanted: Sequence[tuple[DaemonAccount, str]]) -> tuple[DaemonUse, ...]:
    decisions = await in_batches(
        partial(identity_decision, client, each.account, resource) for each, resource in wanted
    )
    found: dict[tuple[DaemonAccount, str], list[str]] = {}
    for (account, resource), decision in zip(wanted, decisions, strict=True):
        if decision.allowed:
            found.setdefault((account, decision.reason), []).append(resource)
    return tuple(
        DaemonUse(
            program=account.program,
            account=account.account,
            client_ids=() if ALL_IDENTITIES in resources else tuple(resources),
            reason=reason,
        )
        for (account, reason), resources in found.items()
    )


def readable_mic_settings(mic: Sequence[Daemon]) -> list[MicSettings]:
    read = []
    for each in mic:
        try:
            read.append(mic_settings(each))
        except UsageError:
            continue  # reported by the check of flags
    return read


async def read_rights(
    client: Client, nmi: Sequence[Daemon] | ReadFailure, mic: Sequence[Daemon] | ReadFailure
) -> tuple[Rights, ...]:
    nmi_of = {} if isinstance(nmi, ReadFailure) else {service_account_of(each): each for each in nmi}
    mic_of = {} if isinstance(mic, ReadFailure) else {service_account_of(each): each for each in mic}
    return (
        *[
            Rights("NMI", account, await _missing_rights(client, account, nmi_rights(managed=is_managed([each]))))
            for account, each in nmi_of.items()
        ],
        *[await _rights_of_mic(client, account, each) for account, each in mic_of.items()],
    )


async def _rights_of_mic(client: Client, account: str, mic: Daemon) -> Rights:
    namespace = mic.metadata.namespace
    settings = next(iter(readable_mic_settings([mic])), MicSettings(namespace=namespace))
    wanted = mic_rights(
        namespace=namespace,
        lease_namespace=settings.lease_namespace,
        lease=settings.lease_name,
        config_map=settings.upgrade_config_map,
        taint=bool(settings.startup_taint),
    )
    lacking = await _missing_rights(client, account, wanted)
    record = UpgradeRecord(client, namespace, settings.upgrade_config_map, settings.upgrade_key)
    recorded = await or_failure(record.read()) if settings.type_upgrade else ""
    if isinstance(recorded, ReadFailure):
        return Rights("MIC", account, lacking, unread_record=recorded)
    missing = await _missing_rights(client, account, upgrade_rights())
    if recorded is None:
        return Rights("MIC", account, (*lacking, *missing))
    return Rights("MIC", account, lacking, tuple(each for each in upgrade_rights() if each not in missing))


async def _missing_rights(client: Client, account: str, wanted: Sequence[Right]) -> tuple[Right, ...]:
    allowed = await in_batches(
        partial(
            is_allowed,
            client,
            account,
            verb=right.verb,
            group=right.group,
            resource=right.resource,
            namespace=right.namespace,
            name=right.name,
        )
        for right in wanted
    )
    return tuple(right for right, may in zip(wanted, allowed, strict=True) if not may)
