"""ARM's descriptions of its cloud, subscriptions and tenants: the first requests of command-line tools. No I/O.

The metadata of a cloud is public. Subscriptions and tenants are those in which the caller has a role.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

METADATA_PATH: Final = "/metadata/endpoints"
CLOUD_NAME: Final = "AzureSandbox"
STORAGE_SUFFIX: Final = "core.windows.net"
OLD_METADATA: Final = "2015-01-01"
"""The api-version whose document has another form, without the suffixes."""
LIST_METADATA: Final = ("2019-05-01", "2019-08-01", "2020-06-01")
"""The api-versions whose document is a list of clouds."""
SUBSCRIPTION_PATH: Final = re.compile(r"/subscriptions(?:/(?P<subscription>[^/]+))?/?", re.IGNORECASE)
TENANTS_PATH: Final = re.compile(r"/tenants/?", re.IGNORECASE)
GROUPS_PATH: Final = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups(?:/(?P<group>[^/]+))?/?", re.IGNORECASE
)
_SUFFIXES: Final = {
    "acrLoginServer": "azurecr.invalid",
    "keyVaultDns": "vault.invalid",
    "sqlServerHostname": "database.invalid",
    "storage": STORAGE_SUFFIX,
}


def cloud_metadata(
    version: str, *, login: str, resource_manager: str, audiences: Sequence[str], tenant_id: str
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the metadata of the cloud in the form of the api-version; *login* and *resource_manager* are URLs."""
    shown = [f"{audience.rstrip('/')}/" for audience in audiences]
    if version == OLD_METADATA:
        return {
            "galleryEndpoint": resource_manager,
            "graphEndpoint": login,
            "portalEndpoint": resource_manager,
            "authentication": {"loginEndpoint": f"{login}/", "audiences": shown},
        }
    document = {
        "name": CLOUD_NAME,
        "portal": resource_manager,
        "authentication": {
            "loginEndpoint": login,
            "audiences": shown,
            "tenant": tenant_id,
            "identityProvider": "AAD",
        },
        "gallery": resource_manager,
        "graph": login,
        "graphAudience": login,
        "microsoftGraphResourceId": login,
        "resourceManager": resource_manager,
        "suffixes": _SUFFIXES,
    }
    return [document] if version in LIST_METADATA else document


def subscription(subscription_id: str, tenant_id: str) -> dict[str, Any]:
    """Return the description of a subscription."""
    return {
        "id": f"/subscriptions/{subscription_id}",
        "subscriptionId": subscription_id,
        "tenantId": tenant_id,
        "displayName": "Sandbox",
        "state": "Enabled",
        "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01", "quotaId": "", "spendingLimit": "Off"},
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    }


def tenant(tenant_id: str) -> dict[str, Any]:
    """Return the description of a tenant."""
    return {
        "id": f"/tenants/{tenant_id}",
        "tenantId": tenant_id,
        "displayName": "Sandbox",
        "tenantCategory": "Home",
    }


def resource_group(subscription_id: str, name: str, location: str) -> dict[str, Any]:
    """Return the description of a resource group."""
    return {
        "id": f"/subscriptions/{subscription_id}/resourceGroups/{name}",
        "name": name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": location,
        "properties": {"provisioningState": "Succeeded"},
    }
