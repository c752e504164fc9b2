"""Plans of Azure resources with usual and with hostile names."""

from dataclasses import replace
from typing import Any

from nmi.settings import NmiSettings
from podidctl.migration.federation.azure_resources import (
    AzureOptions,
    AzurePlan,
    azure_plan,
    parse_cluster,
)
from podidentity.azure.federation import Exchange
from podidentity.resources import EXCHANGE_ANNOTATION
from tests.support.migration.federation_sandbox import planned
from tests.support.migration.objects import binding, identity, workload

PRINCIPAL = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
HOSTILE_ACCOUNT = "x${a}'$${b}%{c}\"\\d$(e)`f`#//{{g}}é"
"""The API server accepts no such name, but the plan must not depend on that."""
CLUSTER_ID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"


BINDINGS = AzureOptions(parse_cluster(CLUSTER_ID))
"""The options of a plan with identity bindings."""
GRANTS = AzureOptions(principal=PRINCIPAL)


def mixed() -> AzurePlan:
    """Return the plan of two identities, one with each exchange, with their role assignments."""
    names = {"usual": Exchange.DIRECT, "bound": Exchange.IDENTITY_BINDINGS}
    objects = [identity(name, annotations={EXCHANGE_ANNOTATION: exchange}) for name, exchange in names.items()]
    objects += [binding(name, selector="demo") for name in names]
    nmi = NmiSettings(node_name="n", federated_identities=True, federated_exchange_annotation=True)
    made = planned(workload(account="web"), objects=objects, nmis=(nmi,))
    return azure_plan(made, replace(BINDINGS, principal=PRINCIPAL))


def azure(*accounts: str, options: AzureOptions = GRANTS, names: tuple[str, ...] = ("demo",), **more: Any) -> AzurePlan:
    """Return the plan of identities *names*, each used by *accounts* in namespace shop."""
    objects = [identity(name, **more) for name in names]
    objects += [binding(name, selector="demo") for name in names]
    exchange = Exchange.IDENTITY_BINDINGS if options.cluster else Exchange.DIRECT
    users = (workload(f"w{number}", account=account) for number, account in enumerate(accounts))
    made = planned(*users, objects=objects, exchange=exchange)
    return azure_plan(made, options)
