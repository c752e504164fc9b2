"""The operator's text about a failed fetch names the service that failed: IMDS or Entra ID."""

import pytest

from nmi.error_refusals import Service, refusal_of, service_of
from podidentity.azure.errors import AzureError, Throttled, Unreachable
from tests.support.nmi_objects import identity


@pytest.mark.parametrize(
    ("type_", "service"), [(0, Service.IMDS), (1, Service.ENTRA_ID), (2, Service.ENTRA_ID), (3, Service.ENTRA_ID)]
)
def test_only_tokens_of_user_assigned_identities_are_from_imds(type_: int, service: Service) -> None:
    assert service_of(identity(type_=type_)) is service


@pytest.mark.parametrize("error", [Unreachable("no response"), Throttled("slow down")])
@pytest.mark.parametrize(("service", "other"), [(Service.IMDS, "Entra"), (Service.ENTRA_ID, "IMDS")])
def test_the_text_names_only_this_service_and_ends_with_the_cause(
    error: AzureError, service: Service, other: str
) -> None:
    detail = refusal_of(error, service=service).detail
    assert str(service) in detail
    assert other not in detail
    assert detail.endswith(f": {error.message}")
    assert detail.startswith(("check that", "find what")), "the next action"
