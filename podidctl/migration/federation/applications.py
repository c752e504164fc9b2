"""Changes that workload identity needs for applications whose identity is federated. Pure.

`workload_identity.plan_workload_identity` chooses the service account and the client id. This module selects the
applications that need only a label and annotations, because their federated credential exists.
"""

from typing import Any, Final

from podidctl.facts.workloads import CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS
from podidctl.migration.federation.planning_input import FederationState
from podidctl.migration.federation.schema import Application, ApplicationState, Remark
from podidctl.migration.workload_identity import (
    CLIENT_ID,
    USE_LABEL,
    ManualStep,
    plan_workload_identity,
    usable_identities,
)
from podidctl.migration.workloads import Workload
from podidctl.report.text import grouped
from podidentity.azure.federation import Exchange
from podidentity.resources import AzureIdentity, IdentityType, Kind

CHANGEABLE_KINDS: Final[tuple[Kind[Any], ...]] = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, CRON_JOBS)
NO_CREDENTIAL: Final = (
    "NMI uses AKS identity bindings for its identity, so Entra ID may have no federated credential of its service "
    "account, which its SDK needs"
)
CREATE_CREDENTIAL: Final = (
    "create it (podidctl migrate plan -o az --exchange direct {}), then run this command with --exchange direct; or "
    "change the application's code and its manifest for AKS identity bindings"
)
_KINDS: Final = {kind.name for kind in CHANGEABLE_KINDS}


def plan_applications(cluster: FederationState) -> list[Application]:
    """Return the workloads whose identity is federated or may become so."""
    made = plan_workload_identity(cluster.situation)
    steps = grouped((step.about, step) for step in made.by_hand)
    # A new service account would need a new federated credential, which this command does not create.
    existing = {(account.namespace, account.name): account for account in made.accounts if not account.is_new}
    applications = []
    for workload in sorted(cluster.situation.workloads, key=lambda workload: workload.description):
        usable = usable_identities(cluster.situation, workload)
        if not usable or usable[0].spec.type not in {IdentityType.USER_ASSIGNED, IdentityType.FEDERATED}:
            continue
        identity = usable[0]
        account = existing.get(workload.account_key)
        applications.append(
            _application(
                workload,
                identity,
                cluster.exchange_of(identity).exchange,
                steps[workload.description],
                done=workload.description in made.done,
                mine=account is not None and account.client_id.lower() == identity.spec.client_id.strip().lower(),
            )
        )
    return applications


def cluster_remarks(cluster: FederationState) -> list[Remark]:
    """Return remarks about the cluster that concern all applications."""
    if cluster.webhook is False:
        return [
            Remark(
                why="the azure-workload-identity webhook is not installed; without it the label has no effect",
                do="install it: az aks update --enable-workload-identity, or its chart",
            )
        ]
    if cluster.webhook is None:
        return [
            Remark(
                why="it is unknown whether the azure-workload-identity webhook is installed",
                do="see kubectl get mutatingwebhookconfigurations",
                blocks=False,
            )
        ]
    return []


def _application(
    workload: Workload,
    identity: AzureIdentity,
    exchange: Exchange,
    steps: list[ManualStep],
    *,
    done: bool,
    mine: bool,
) -> Application:
    remarks = [Remark(why=step.why, do=step.do, blocks=False) for step in steps]
    state = ApplicationState.TO_DO
    if done:
        state = ApplicationState.DONE
    elif workload.kind not in _KINDS or workload.unpatchable:
        state = ApplicationState.MANUAL
        reason = workload.unpatchable or f"this command does not change a {workload.kind}"
        do = f'in its own manifest, set the label {USE_LABEL}: "true"; annotate its service account with {CLIENT_ID}'
        remarks = [Remark(why=reason, do=do)]
    elif not mine:
        state = ApplicationState.MANUAL
        remarks = [
            Remark(
                why=f"its service account {workload.account} is shared or is for another client id",
                do="give it a separate one: podidctl migrate to-workload-identity creates it, with its credential",
            )
        ]
    elif identity.spec.type != IdentityType.FEDERATED:
        state = ApplicationState.WAITS_FOR_IDENTITY
    elif exchange is Exchange.IDENTITY_BINDINGS:
        state = ApplicationState.MANUAL
        remarks = [Remark(why=NO_CREDENTIAL, do=CREATE_CREDENTIAL.format("/".join(identity.key)))]
    return Application(
        api_version=workload.api_version,
        kind=workload.kind,
        namespace=workload.namespace,
        name=workload.name,
        account=workload.account,
        identity="/".join(identity.key),
        client_id=identity.spec.client_id.strip(),
        tenant_id=identity.spec.tenant_id.strip(),
        state=state,
        remarks=remarks,
    )
