"""Federated credentials as they are created, become effective and are removed."""

import time

import pytest

from podidentity_sandbox.directory import FEDERATED_MAX, DirectoryError, FederatedCredential
from tests.sandbox.azure.conftest import Azure
from tests.sandbox.azure.federated_credentials.federation import SUBJECT, Federation


async def test_a_credential_is_effective_after_a_delay(federation: Federation) -> None:
    token = await federation.token()
    federation.trust(known_from=time.time() + 3600)
    assert (await federation.refusal(token))[2] == 70025
    federation.trust(federation.azure.two.client_id, known_from=time.time())
    assert (await federation.ask(token, federation.azure.two.client_id))[0] == 200


async def test_a_removed_credential_is_not_accepted(federation: Federation) -> None:
    federation.trust()
    token = await federation.token()
    assert (await federation.ask(token))[0] == 200
    federation.azure.directory.unfederate(federation.identity.client_id, federation.kube.server, SUBJECT)
    assert (await federation.refusal(token))[2] == 70025


async def test_a_recreated_identity_has_none_of_its_former_credentials(federation: Federation) -> None:
    federation.trust()
    directory, was = federation.azure.directory, federation.identity
    directory.remove_identity(was.resource_id)
    assert (await federation.refusal(await federation.token()))[2] == 700016
    directory.add_identity(was.resource_id, client_id=was.client_id)
    assert (await federation.refusal(await federation.token()))[2] == 70025


async def test_an_identity_has_at_most_twenty_unique_credentials(federation: Federation) -> None:
    for number in range(FEDERATED_MAX - 1):
        federation.trust(subject=f"{SUBJECT}-{number}")
    with pytest.raises(DirectoryError, match="already exists"):
        federation.trust(subject=f"{SUBJECT}-0", audience="another")
    federation.trust()
    with pytest.raises(DirectoryError, match="20"):
        federation.trust(subject="one more")
    federation.trust(federation.azure.two.client_id)
    assert (await federation.ask(await federation.token()))[0] == 200


def test_an_unknown_client_cannot_have_a_credential(azure: Azure) -> None:
    with pytest.raises(DirectoryError, match="unknown-client"):
        azure.directory.federate("unknown-client", FederatedCredential("i", "s", "a"))
