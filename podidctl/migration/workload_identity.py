"""Plan that replaces bindings by workload identity. Pure.

MIC's own rules decide the identities of a workload. A service account can have one client id. If a pod has several
identities, the account is for the one that NMI uses for a request that names none.
"""

import ipaddress
import re
from collections import Counter
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from podidctl.evaluation.federated import CREDENTIALS_MAX
from podidctl.evaluation.federated_credentials import credential_name
from podidctl.migration.workloads import DEFAULT_ACCOUNT, Key, ServiceAccount, Workload, WorkloadState
from podidctl.report.text import grouped, listed
from podidentity.azure.resource_ids import parse_user_assigned
from podidentity.resources import BINDING_LABEL, AzureIdentity, IdentityType, Wire

USE_LABEL: Final = "azure.workload.identity/use"
CLIENT_ID: Final = "azure.workload.identity/client-id"
TENANT_ID: Final = "azure.workload.identity/tenant-id"
_ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,127}")
_FIELD_COMMANDS: Final = {
    "clientID": "az identity show --query clientId",
    "tenantID": "az account show --query tenantId",
}


class PlannedAccount(Wire, frozen=True):
    """A ServiceAccount in its desired form."""

    namespace: str
    name: str
    client_id: str
    tenant_id: str
    """Empty for the webhook's default tenant."""
    is_new: bool
    image_pull_secrets: list[dict[str, Any]] | None = None
    automount_service_account_token: bool | None = None
    """For a new account: both values of the workload's current account."""


class WorkloadPatch(Wire, frozen=True):
    """Change of one workload: the label of its pods, and their service account."""

    api_version: str
    kind: str
    namespace: str
    name: str
    service_account: str


class PlannedCredential(Wire, frozen=True):
    """A federated credential to create on Azure."""

    identity: str
    """The AzureIdentity, as `namespace/name`."""
    name: str
    subject: str
    client_id: str
    subscription: str = ""
    resource_group: str = ""
    identity_name: str = ""
    """Name of the user-assigned identity; these three are empty for a service principal."""


class ManualStep(Wire, frozen=True):
    """A step that the plan's documents do not cover, or not completely."""

    about: str
    why: str
    do: str

    @property
    def line(self) -> str:
        return f"{self.about}: {self.why}; {self.do}"


class WorkloadIdentityPlan(Wire, frozen=True):
    """All steps."""

    accounts: list[PlannedAccount]
    patches: list[WorkloadPatch]
    credentials: list[PlannedCredential]
    by_hand: list[ManualStep]
    done: list[str]
    """Workloads that need no change."""


def plan_workload_identity(state: WorkloadState, *, namespace: str = "") -> WorkloadIdentityPlan:
    """Return the plan for all workloads with an identity, or for those of one namespace."""
    made = _Planner(state).run(namespace)
    # Azure also counts the credentials for other namespaces.
    everywhere = _Planner(state).run("").credentials if namespace else made.credentials
    counted = Counter(credential.identity for credential in everywhere)
    too_many = [
        ManualStep(
            about=f"AzureIdentity {identity}",
            why=f"would need {counted[identity]} federated credentials, and Azure allows {CREDENTIALS_MAX}",
            do="let workloads share service accounts, or give them separate identities",
        )
        for identity in sorted({credential.identity for credential in made.credentials})
        if counted[identity] > CREDENTIALS_MAX
    ]
    return replace(made, by_hand=[*made.by_hand, *too_many])


class _Planner:
    def __init__(self, state: WorkloadState) -> None:
        self._state = state
        self._accounts = {account.key: account for account in state.accounts}
        self._users = grouped((workload.account_key, workload) for workload in state.workloads)
        self._planned: dict[Key, PlannedAccount] = {}
        self._patches: list[WorkloadPatch] = []
        self._credentials: dict[tuple[str, str], PlannedCredential] = {}
        self._by_hand: list[ManualStep] = []
        self._done: list[str] = []

    def run(self, namespace: str) -> WorkloadIdentityPlan:
        for workload in sorted(
            self._state.workloads, key=lambda workload: (workload.namespace, workload.kind, workload.name)
        ):
            if workload.labels.get(BINDING_LABEL) and namespace in {"", workload.namespace}:
                self._plan_workload(workload)
        for pod in self._state.manually_labelled_pods():
            if namespace in {"", pod.metadata.namespace}:
                self._add_step(
                    f"Pod {'/'.join(pod.key)}",
                    f"its label {BINDING_LABEL} differs from its template, so it was set only on the pod",
                    "set the label in the template (or in the admission webhook that changes pods), then run this "
                    "command again",
                )
        return WorkloadIdentityPlan(
            accounts=list(self._planned.values()),
            patches=self._patches,
            credentials=list(self._credentials.values()),
            by_hand=self._by_hand,
            done=self._done,
        )

    def _plan_workload(self, workload: Workload) -> None:
        desired = self._state.desired(workload)
        if not desired:
            label = workload.labels[BINDING_LABEL]
            self._add_step(
                workload.description,
                f"no usable AzureIdentity is bound to its label {label!r}",
                "bind one, or remove the label",
            )
            return
        usable = usable_identities(self._state, workload)
        for assignment in desired:
            if fault := unusable_field(assignment.identity):
                self._add_step(
                    workload.description,
                    f"AzureIdentity {_name(assignment.identity)} has no usable {fault}",
                    f"set it ({_FIELD_COMMANDS[fault]}), then run this command again",
                )
        if not usable:
            return
        first, *others = usable
        account = self._account(workload, first)
        if account is None:
            return
        # For each identity, because the application may name the client id of any of them.
        for identity in usable:
            credential = credential_of(identity, account.namespace, account.name)
            self._credentials.setdefault((credential.identity, credential.subject), credential)
        if others:
            names = ", ".join(f"{_name(identity)} ({identity.spec.client_id.strip()})" for identity in others)
            self._add_step(
                workload.description,
                f"it has several identities, but a service account has one, {_name(first)}; also {names}",
                "let the application name the client id of each other identity; the plan has their federated "
                "credentials",
            )
        if workload.unpatchable:
            self._add_step(
                workload.description,
                workload.unpatchable,
                f'in its own manifest, set the label {USE_LABEL}: "true" and serviceAccountName: {account.name}',
            )
        elif workload.account == account.name and workload.labels.get(USE_LABEL) == "true":
            existing = self._accounts.get((account.namespace, account.name))
            if _client_of_account(existing) == account.client_id.lower():
                self._done.append(workload.description)
        else:
            self._patches.append(
                WorkloadPatch(
                    api_version=workload.api_version,
                    kind=workload.kind,
                    namespace=workload.namespace,
                    name=workload.name,
                    service_account=account.name,
                )
            )

    def _account(self, workload: Workload, identity: AzureIdentity) -> PlannedAccount | None:
        """Return the service account for *workload*; None if the operator must decide first."""
        mine = identity.spec.client_id.strip().lower()
        # Pods that name no service account use `default`, also future ones, so it is never annotated.
        others = [user for user in self._users[workload.account_key] if user is not workload]
        strangers = [user for user in others if workload.account == DEFAULT_ACCOUNT or self._client_of(user) != mine]
        annotated = _client_of_account(self._accounts.get(workload.account_key))
        if workload.account != DEFAULT_ACCOUNT and not strangers:
            if annotated in {"", mine}:
                return self._use(workload, workload.account, identity)
            self._add_step(
                f"ServiceAccount {workload.namespace}/{workload.account}",
                f"is annotated with another client id than that of {_name(identity)}, which {workload.description} "
                "uses",
                "correct the annotation, or give the workload a separate service account",
            )
            return None
        name = self._free_name(workload, mine)
        used = (
            "every pod without one also uses"
            if workload.account == DEFAULT_ACCOUNT
            else f"{listed((user.description for user in strangers), 3)} also uses"
        )
        self._add_step(
            workload.description,
            f"its service account is {workload.account}, which {used}; {name} is created so that these do not get the "
            "identity",
            f"bind the roles of {workload.account} to {name}, too, as far as the workload needs them",
        )
        return self._use(workload, name, identity)

    def _client_of(self, workload: Workload) -> str:
        return next(
            (identity.spec.client_id.strip().lower() for identity in usable_identities(self._state, workload)), ""
        )

    def _free_name(self, workload: Workload, client_id: str) -> str:
        """Return a name that no other workload's service account has. An account from an earlier run is reused."""
        number = 1
        while True:
            suffix = "" if number == 1 else f"-identity{number if number > 2 else ''}"
            name = f"{workload.name[: 253 - len(suffix)]}{suffix}"
            key = (workload.namespace, name)
            users = [user for user in self._users[key] if user is not workload]
            existing = self._accounts.get(key)
            if (
                key not in self._planned
                and not users
                and (existing is None or _client_of_account(existing) == client_id)
            ):
                return name
            number += 1

    def _use(self, workload: Workload, name: str, identity: AzureIdentity) -> PlannedAccount:
        key = (workload.namespace, name)
        if key not in self._planned:
            is_new = key not in self._accounts
            # The new account must not take from the pods what the former one has given them.
            former = self._accounts.get(workload.account_key) if is_new else None
            self._planned[key] = PlannedAccount(
                namespace=workload.namespace,
                name=name,
                client_id=identity.spec.client_id.strip(),
                tenant_id=identity.spec.tenant_id.strip(),
                is_new=is_new,
                image_pull_secrets=former.image_pull_secrets if former else None,
                automount_service_account_token=former.automount_service_account_token if former else None,
            )
        if identity.spec.auxiliary_tenant_ids:
            self._add_step(
                workload.description,
                f"AzureIdentity {_name(identity)} has auxiliary tenants, but a service account has one tenant",
                "let the application request a token in each of the others",
            )
        return self._planned[key]

    def _add_step(self, about: str, reason: str, do: str) -> None:
        step = ManualStep(about=about, why=reason, do=do)
        if step not in self._by_hand:
            self._by_hand.append(step)


def credential_of(identity: AzureIdentity, namespace: str, account: str, suffix: str = "") -> PlannedCredential:
    """Return the federated credential by which *identity* trusts this service account. *suffix*: see
    `credential_name`.
    """
    managed = identity.spec.type in {IdentityType.USER_ASSIGNED, IdentityType.FEDERATED}
    azures = parse_user_assigned(identity.spec.resource_id) if managed else None
    return PlannedCredential(
        identity=_name(identity),
        name=credential_name(namespace, account, suffix),
        subject=f"system:serviceaccount:{namespace}:{account}",
        client_id=identity.spec.client_id.strip(),
        subscription=azures.subscription if azures else "",
        resource_group=azures.resource_group if azures else "",
        identity_name=azures.name if azures else "",
    )


def usable_identities(state: WorkloadState, workload: Workload) -> list[AzureIdentity]:
    """Return the identities of *workload* without an invalid field, the one of unspecific requests first."""
    return [assignment.identity for assignment in state.desired(workload) if not unusable_field(assignment.identity)]


def unusable_field(identity: AzureIdentity) -> str:
    """Return the invalid field of *identity*, or an empty string."""
    spec = identity.spec
    if not _ID.fullmatch(spec.client_id.strip()):
        return "clientID"
    return "tenantID" if spec.tenant_id.strip() and not _ID.fullmatch(spec.tenant_id.strip()) else ""


def _client_of_account(account: ServiceAccount | None) -> str:
    return "" if account is None else account.metadata.annotation(CLIENT_ID).strip().lower()


def _name(identity: AzureIdentity) -> str:
    return "/".join(identity.key)


def is_public(issuer: str) -> bool:
    """Return whether Azure may reach *issuer* to read its keys; false for names that only the cluster resolves."""
    try:
        where = urlsplit(issuer)
        host = where.hostname or ""
    except ValueError:
        return False
    try:
        reachable = ipaddress.ip_address(host).is_global
    except ValueError:
        reachable = "." in host and not host.endswith((".svc", ".local", ".internal"))
    return where.scheme == "https" and reachable


def unreachable_issuer(issuer: str) -> ManualStep:
    """Return the manual step for an issuer that Azure cannot reach."""
    return ManualStep(
        about=f"issuer {issuer}",
        why="Azure must read its keys, but it is not a public https address",
        do="enable the cluster's OIDC issuer (az aks update --enable-oidc-issuer), or pass --issuer",
    )
