"""NMI records identities whose tokens applications can use as their credential, once for each fetch."""

import msgspec
import pytest

from nmi.tokens.application_credentials import IDENTITIES_MAX, PER_NAMESPACE_MAX, ApplicationCredentials
from podidentity.azure.errors import Refused
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta
from tests.nmi.tokens.fakes import REQUEST, Bench, identity

AUDIENCE = "api://AzureADTokenExchange"
TOKENS = "aadpodidentity_nmi_application_credential_tokens_total"
UNRECORDED = "aadpodidentity_nmi_application_credential_tokens_unrecorded_total"
FOR_APPLICATIONS = msgspec.structs.replace(REQUEST, resource=AUDIENCE)


def named(name: str, namespace: str = "ns", type_: int = 0) -> AzureIdentity:
    return AzureIdentity(metadata=Meta(namespace=namespace, name=name), spec=AzureIdentitySpec(type=type_))


async def test_a_fetch_for_the_audience_is_recorded_and_a_cached_answer_is_not() -> None:
    bench = Bench()
    name = "/".join(identity().key)
    for _ in range(3):
        await bench.token(FOR_APPLICATIONS)
    assert bench.registry.get_sample_value(TOKENS, {"identity": name}) == 1.0
    assert bench.broker.state()["application_credentials"] == {"tokens": {name: 1}, "unrecorded": 0}


async def test_other_audiences_are_not_recorded() -> None:
    bench = Bench()
    await bench.token()
    assert bench.broker.state()["application_credentials"] == {"tokens": {}, "unrecorded": 0}


async def test_a_failed_fetch_is_not_recorded() -> None:
    bench = Bench()
    bench.source.failures = [Refused("no", status=400)]
    with pytest.raises(Refused):
        await bench.token(FOR_APPLICATIONS)
    assert bench.broker.state()["application_credentials"] == {"tokens": {}, "unrecorded": 0}


async def test_a_token_of_the_previous_nmi_is_recorded_when_it_is_used() -> None:
    before, after = Bench(), Bench()
    await before.token(FOR_APPLICATIONS)
    after.broker.receive_tokens(before.broker.tokens_to_pass())
    await after.token(FOR_APPLICATIONS)
    assert after.source.sent == 0
    assert after.registry.get_sample_value(TOKENS, {"identity": "/".join(identity().key)}) == 1.0


@pytest.mark.parametrize(
    ("resource", "recorded"),
    [
        (AUDIENCE, True),
        ("api://azureadtokenexchange/", True),
        ("api://AzureADTokenExchangeUSGov", True),
        ("api://AzureADTokenExchangeChina", True),
        ("api://AzureADToken", False),
        ("https://management.azure.com/", False),
        (f"https://x/{AUDIENCE}", False),
    ],
)
def test_the_audience_of_each_cloud_is_known(resource: str, *, recorded: bool) -> None:
    record = ApplicationCredentials()
    record.record(named("a"), resource)
    assert dict(record.tokens) == ({"ns/a": 1} if recorded else {})


@pytest.mark.parametrize("type_", [1, 2, 3])
def test_only_identities_of_type_0_are_recorded(type_: int) -> None:
    record = ApplicationCredentials()
    record.record(named("a", type_=type_), AUDIENCE)
    assert (dict(record.tokens), record.unrecorded) == ({}, 0)


def test_one_namespace_cannot_take_all_places() -> None:
    record = ApplicationCredentials()
    for number in range(1000):
        record.record(named(f"i{number}", "loud"), AUDIENCE)
    record.record(named("a", "quiet"), AUDIENCE)
    record.record(named("i0", "loud"), AUDIENCE)
    assert len(record.tokens) == PER_NAMESPACE_MAX + 1
    assert (record.tokens["quiet/a"], record.tokens["loud/i0"]) == (1, 2)
    assert record.unrecorded == 1000 - PER_NAMESPACE_MAX


def test_the_record_is_bounded() -> None:
    record = ApplicationCredentials()
    for number in range(5000):
        record.record(named("a", f"n{number}"), AUDIENCE)
    assert (len(record.tokens), record.unrecorded) == (IDENTITIES_MAX, 5000 - IDENTITIES_MAX)


def test_a_text_that_is_no_name_is_only_counted() -> None:
    record = ApplicationCredentials()
    record.record(named("a" * 253, "n" * 63), AUDIENCE)
    record.record(named("a" * 254, "n" * 63), AUDIENCE)
    assert (len(record.tokens), record.unrecorded) == (1, 1)
    assert len(msgspec.json.encode(record.state())) < 1000
