"""Permission checks of service accounts by SubjectAccessReview, which the API server answers without storing it, and
checks of Secrets by NMI's own reader. No value of a Secret leaves this module.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from mic.startup.settings import MicSettings
from mic.startup.type_upgrade import UpgradeRecord
from nmi.settings import NmiSettings
from nmi.tokens.assertions import SERVICE_ACCOUNTS
from nmi.tokens.endpoints import Application
from nmi.tokens.secrets import CredentialError, Secrets
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.federated import IDENTITIES_MAX, account_name, proxied_identities
from podidctl.evaluation.needs import (
    CHECKED_MAX,
    NOT_READ,
    BindingUse,
    DaemonAccount,
    Review,
    bound_uses,
    federated_needs,
    has_use,
    needed_identities,
    review_resources,
    right_review,
    secret_namespaces,
    secret_review,
    token_review,
    use_review,
)
from podidctl.evaluation.pod import PodCase
from podidctl.evaluation.rbac import ACCOUNT_PREFIX, service_account
from podidctl.evaluation.rights import mic_rights, nmi_rights, upgrade_rights
from podidctl.evaluation.tokens import application_of
from podidctl.facts.kinds import Daemon, service_account_of
from podidctl.facts.model import (
    DaemonUse,
    DaemonUses,
    Facts,
    FederatedAccess,
    IdentityKey,
    ReadFailure,
    Right,
    Rights,
    SecretAccess,
    SecretCheck,
    readable,
)
from podidctl.facts.rbac import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Rbac
from podidctl.facts.settings import is_managed, likely_nmi, readable_configurations, readable_mic_settings
from podidctl.reading.requests import Decision, in_batches, or_failure, or_none, review_access
from podidctl.report.text import by_turns, grouped
from podidentity.azure.errors import AzureError
from podidentity.azure.identity_permissions import ALL_IDENTITIES
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, IdentityType, Pod


async def decide(client: Client, review: Review) -> Decision:
    """Return the API server's decision. Raises ApiError."""
    # The API server adds no groups to a review, so these are the ones that it gives to a service account's token.
    account, *groups = service_account(review.account)
    spec = {
        "user": f"{ACCOUNT_PREFIX}{account.namespace}:{account.name}",
        "groups": [group.name for group in groups],
        "resourceAttributes": review.attributes,
    }
    return await review_access(client, "SubjectAccessReview", spec)


async def decide_all(client: Client, reviews: Sequence[Review]) -> list[Decision]:
    """Return the decisions in the order of *reviews*. Raises ApiError."""
    return await in_batches(partial(decide, client, review) for review in reviews)


async def denied(client: Client, reviews: Sequence[Review]) -> list[Review]:
    """Return those of *reviews* that the API server does not allow. Raises ApiError."""
    decisions = await decide_all(client, reviews)
    return [review for review, decision in zip(reviews, decisions, strict=True) if not decision.allowed]


async def may_use_identity(client: Client, account: str, client_id: str) -> bool:
    """Return whether the service account *account* (`namespace/name`) may use the identity at the token proxy. Raises
    ApiError.
    """
    return (await decide(client, use_review(account, client_id))).allowed


async def read_secret_checks(
    client: Client, settings: NmiSettings, identities: Iterable[AzureIdentity]
) -> Mapping[IdentityKey, SecretCheck]:
    """Return the check of each service principal's Secret, by the identity's key. Identities without one are left out.

    The first CHECKED_MAX are read, and the others are NOT_READ. Raises ApiError only if the API server does not
    respond.
    """
    secrets = Secrets(client)
    applications = [
        (identity.key, application)
        for identity in identities
        if (application := application_of(settings, identity)) is not None
    ]
    read = applications[:CHECKED_MAX]
    checks = await in_batches(partial(_secret_check, secrets, application) for _, application in read)
    result: dict[IdentityKey, SecretCheck] = {key: NOT_READ for key, _ in applications}
    result.update((key, check) for (key, _), check in zip(read, checks, strict=True))
    return result


async def read_credentials(client: Client, facts: Facts) -> Mapping[IdentityKey, SecretCheck]:
    """Return the checks of the cluster's Secrets, by the settings of the first NMI whose flags can be read: first the
    ones that pods need.
    """
    needed = needed_identities(facts)
    in_turn = by_turns(facts.identities, lambda identity: (identity.key not in needed, identity.metadata.namespace))
    # A stable sort: among the needed identities, and among the others, the namespaces stay in turn.
    first = sorted(in_turn, key=lambda identity: identity.key not in needed)
    return await read_secret_checks(client, ClusterCase(facts).usual.settings, first)


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


async def read_federated_access(client: Client, facts: Facts) -> FederatedAccess:
    """Return this state. Reads nothing if no pod has a federated identity. Raises NoResponse."""
    needs = federated_needs(facts)
    return FederatedAccess(
        {namespace: await or_failure(_service_accounts(client, namespace)) for namespace in needs.namespaces},
        await or_failure(_forbidden(client, needs.tokens)),
        unchecked=needs.unchecked,
        unpermitted=await or_failure(_unpermitted(client, needs.uses)),
        unchecked_uses=needs.unchecked_uses,
    )


async def read_account_access(client: Client, facts: Facts, pod: Pod) -> Facts:
    """Return the facts with this state of the pod's service account, if the pod has a federated identity. Raises
    NoResponse.
    """
    case, name = PodCase(facts, pod), pod.spec.service_account_name
    if not case.federated:
        return facts
    there = await or_failure(or_none(client.get(SERVICE_ACCOUNTS, case.namespace, name)))
    existing = there if isinstance(there, ReadFailure) else frozenset({name} if there is not None else ())
    # Without the list of NMI's pods, its service account and so its permission are not known.
    forbidden: Mapping[str, tuple[str, ...]] | ReadFailure = facts.nmi if isinstance(facts.nmi, ReadFailure) else {}
    if (nmi := likely_nmi(case.nmi)) is not None:
        review = token_review(service_account_of(nmi), account_name(pod))
        forbidden = await or_failure(_forbidden(client, [review]))
    # The proxy authorizes the pod's service account, so without one there is nothing to review.
    proxied = list(proxied_identities(case.settings, case.federated)) if name else []
    uses = [BindingUse(account_name(pod), resource) for resource in proxied[:IDENTITIES_MAX]]
    access = FederatedAccess({case.namespace: existing}, forbidden, 0, await or_failure(_unpermitted(client, uses)))
    return replace(facts, federation=access)


async def _service_accounts(client: Client, namespace: str) -> frozenset[str]:
    return frozenset({account.metadata.name for account in await client.list(SERVICE_ACCOUNTS, namespace)})


async def _forbidden(client: Client, reviews: Sequence[Review]) -> dict[str, tuple[str, ...]]:
    by_account: dict[str, list[str]] = {review.account: [] for review in reviews}
    for review in await denied(client, reviews):
        by_account[review.account].append(f"{review.namespace}/{review.name}")
    return {account: tuple(names) for account, names in by_account.items()}


async def _unpermitted(client: Client, uses: Sequence[BindingUse]) -> dict[str, tuple[str, ...]]:
    client_ids = {use_review(*use): use.client_id for use in uses}
    by_client_id: dict[str, list[str]] = {use.client_id: [] for use in uses}
    for review in await denied(client, list(client_ids)):
        by_client_id[client_ids[review]].append(review.account)
    return {client_id: tuple(sorted(accounts)) for client_id, accounts in by_client_id.items()}


async def read_secret_access(client: Client, facts: Facts) -> tuple[SecretAccess, ...]:
    """Return one value per service account of NMI; none if the identities could not be read. Raises ApiError."""
    accesses = []
    for account, names in {} if facts.unread else secret_namespaces(facts).items():
        # One review replaces those of all namespaces.
        everywhere = (await decide(client, secret_review(account, ""))).allowed
        checked = () if everywhere else names[:CHECKED_MAX]
        forbidden = await denied(client, [secret_review(account, namespace) for namespace in checked])
        unchecked = 0 if everywhere else len(names) - len(checked)
        needed, lacking = tuple(sorted(names)), tuple(review.namespace for review in forbidden)
        accesses.append(SecretAccess(account, everywhere, needed, lacking, unchecked))
    return tuple(accesses)


async def read_daemon_uses(client: Client, facts: Facts) -> DaemonUses:
    """Return these permissions. Reads nothing if no NMI uses identity bindings. Raises NoResponse.

    Role bindings show the permissions for every client id, also for one that no AzureIdentity names; a review also
    shows those of other authorizers, and needs no permission to read role bindings.
    """
    settings = [configuration.settings for configuration in readable_configurations(readable(facts.nmi))]
    resources = review_resources(settings, facts.identities)
    if not resources:
        return DaemonUses()
    daemons = [("NMI", daemon) for daemon in readable(facts.nmi)] + [("MIC", daemon) for daemon in readable(facts.mic)]
    accounts = sorted({DaemonAccount(program, service_account_of(daemon)) for program, daemon in daemons})
    rbac = await or_failure(_cluster_rbac(client))
    bound = rbac if isinstance(rbac, ReadFailure) else tuple(bound_uses(rbac, accounts))
    wanted = [
        (account, resource) for resource in resources for account in accounts if not has_use(bound, account, resource)
    ]
    reviewed = await or_failure(_reviewed_uses(client, wanted[:CHECKED_MAX]))
    return DaemonUses(bound, reviewed, max(0, len(wanted) - CHECKED_MAX))


async def _cluster_rbac(client: Client) -> Rbac:
    # A RoleBinding gives no permission for the proxy's review, which has no namespace.
    return Rbac(
        cluster_roles=tuple(await client.list(CLUSTER_ROLES)),
        cluster_role_bindings=tuple(await client.list(CLUSTER_ROLE_BINDINGS)),
    )


async def _reviewed_uses(client: Client, wanted: Sequence[tuple[DaemonAccount, str]]) -> tuple[DaemonUse, ...]:
    decisions = await decide_all(client, [use_review(account.account, resource) for account, resource in wanted])
    allowed = grouped(
        ((account, decision.reason), resource)
        for (account, resource), decision in zip(wanted, decisions, strict=True)
        if decision.allowed
    )
    return tuple(
        DaemonUse(
            program=account.program,
            account=account.account,
            client_ids=() if ALL_IDENTITIES in resources else tuple(resources),
            reason=reason,
        )
        for (account, reason), resources in allowed.items()
    )


async def read_rights(client: Client, facts: Facts) -> tuple[Rights, ...]:
    """Return the missing permissions of each service account of NMI and MIC. Raises ApiError."""
    rights = []
    # The pods of a DaemonSet share a service account, whose permissions are reviewed once.
    for account, daemon in {service_account_of(daemon): daemon for daemon in readable(facts.nmi)}.items():
        wanted = nmi_rights(managed=is_managed(readable_configurations([daemon])))
        rights.append(Rights("NMI", account, await _missing_rights(client, account, wanted)))
    for account, daemon in {service_account_of(daemon): daemon for daemon in readable(facts.mic)}.items():
        rights.append(await _rights_of_mic(client, account, daemon))
    return tuple(rights)


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
    # A MIC that runs no upgrade needs as few permissions as one whose upgrade is recorded.
    recorded = await or_failure(record.read()) if settings.type_upgrade else ""
    if isinstance(recorded, ReadFailure):
        return Rights("MIC", account, lacking, unread_record=recorded)
    missing = await _missing_rights(client, account, upgrade_rights())
    if recorded is None:
        return Rights("MIC", account, (*lacking, *missing))
    return Rights("MIC", account, lacking, tuple(right for right in upgrade_rights() if right not in missing))


async def _missing_rights(client: Client, account: str, wanted: Sequence[Right]) -> tuple[Right, ...]:
    rights = {right_review(account, right): right for right in wanted}
    return tuple(rights[review] for review in await denied(client, list(rights)))
