"""Diagnosis input of a pod with a federated identity, and the changes of a test."""

from typing import Any

import msgspec

from podidctl.diagnosis.input import DiagnosisInput, ServiceAccountAccess
from podidentity.resources import AzureIdentity, AzureIdentitySpec
from tests.podidctl.prediction_inputs import facts, labelled, rules
from tests.support.nmi_objects import CLIENT_ID, assigned_identity, identity, pod

NMI_ACCOUNT = "kube-system/nmi"
WELL = ServiceAccountAccess(exists=True, nmi_may_request=True, nmi=NMI_ACCOUNT)
SPEC = AzureIdentitySpec(type=3, client_id=CLIENT_ID, tenant_id="contoso.com")


def federated(name: str = "id", *, namespace: str = "ns", **spec: Any) -> AzureIdentity:
    return msgspec.structs.replace(identity(name, namespace=namespace), spec=msgspec.structs.replace(SPEC, **spec))


def trusted(**changes: Any) -> DiagnosisInput:
    """The facts; *changes* are fields of Facts, or `identity` for that alone."""
    own = changes.pop("identity", federated())
    made = labelled(assigned_identity(own_namespace=own.metadata.namespace))
    embedded = msgspec.structs.replace(made.spec, azure_identity_ref=own)
    usual: dict[str, Any] = {
        "configuration": rules(federated_identities=True),
        "pod": pod(service_account="shop"),
        "identities": (own,),
        "assigned": (msgspec.structs.replace(made, spec=embedded),),
        "account": WELL,
    }
    return facts(**(usual | changes))
