"""The Secrets that may be read and their destinations: each refusal with an accepted neighbour, and no I/O before it.

Excluded: how an endpoint is read (tests/unit/podidentity/azure/test_clouds.py).
"""

from typing import Any

import pytest

from nmi.tokens.endpoints import AUXILIARY_MAX, SignInPolicy
from nmi.tokens.source import PolicyError
from podidentity.azure.clouds import PUBLIC, Cloud, Endpoint
from podidentity.resources import AzureIdentity, AzureIdentitySpec, Meta, SecretReference
from tests.support.nmi.tokens.sign_in_bench import Bench, running

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
STACK = Cloud("Stack", "https://login.stack.example:8443/adfs", "", "", frozenset({"login.stack.example:8443"}))


def identity(namespace: str = "team-a", **changed: Any) -> AzureIdentity:
    given = {
        "type": 1,
        "client_id": "c11e0000-0000-0000-0000-00000000000a",
        "tenant_id": TENANT,
        "client_password": SecretReference(name="sp", namespace="team-a"),
        **changed,
    }
    return AzureIdentity(metadata=Meta(name="id", namespace=namespace), spec=AzureIdentitySpec(**given))


def refused(policy: SignInPolicy, requested: AzureIdentity) -> PolicyError:
    with pytest.raises(PolicyError) as error:
        policy.application(requested)
    return error.value


def test_a_secret_in_the_identitys_namespace_is_accepted_with_or_without_its_name() -> None:
    for reference in (SecretReference(name="sp", namespace="team-a"), SecretReference(name="sp")):
        application = SignInPolicy(PUBLIC).application(identity(client_password=reference))
        assert application.secret == "team-a/sp"


@pytest.mark.parametrize("type_", [1, 2])
def test_a_secret_of_another_namespace_is_refused_unless_the_operator_allows_it(type_: int) -> None:
    foreign = identity(type=type_, client_password=SecretReference(name="root", namespace="kube-system"))
    error = refused(SignInPolicy(PUBLIC), foreign)
    assert "--allow-cross-namespace-secrets" in error.sentence
    assert "kube-system" not in error.sentence
    assert "kube-system/root" in error.detail
    assert "--allow-cross-namespace-secrets" in error.detail
    assert SignInPolicy(PUBLIC, allow_cross_namespace=True).application(foreign).secret == "kube-system/root"


@pytest.mark.parametrize(
    "reference",
    [
        None,
        SecretReference(),
        SecretReference(namespace="team-a"),
        *(SecretReference(name=name) for name in (".", "..", "../pods", "a/b", "a%2fb", "A", "a b", "a?b", "a" * 254)),
        *(SecretReference(name="sp", namespace=namespace) for namespace in ("..", "team-a/secrets/x?", "team-a ")),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_a_reference_without_a_secret_name_is_refused(reference: SecretReference | None, allow: bool) -> None:
    error = refused(SignInPolicy(PUBLIC, allow_cross_namespace=allow), identity(client_password=reference))
    assert "team-a/id" in error.detail


def test_an_identity_without_a_namespace_names_no_secret() -> None:
    refused(SignInPolicy(PUBLIC), identity(namespace="", client_password=SecretReference(name="sp")))


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://login.microsoftonline.com/",
        "https://LOGIN.microsoftonline.us",
        "https://login.chinacloudapi.cn:443/",
        "https://login.microsoftonline.de",
        "https://sts.windows.net/",
        "https://login.stack.example:8443",
        "https://login.stack.example:8443/adfs/",
        "https://mine.example",
        "https://ours.example:8443/sign-in",
    ],
)
def test_known_clouds_the_own_one_and_added_endpoints_are_accepted(endpoint: str) -> None:
    policy = SignInPolicy(STACK, allowed_endpoints=["https://mine.example/", "https://ours.example:8443/sign-in/"])
    assert policy.application(identity(ad_endpoint=endpoint)).authority.url == endpoint.lower().removesuffix(
        ":443/"
    ).rstrip("/")


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://evil.example/",
        "https://login.microsoftonline.com.evil.example",
        "https://evil.login.microsoftonline.com",
        "https://login.microsoftonline.com:8443",
        "https://login.microsoftonline.com/common",
        "https://login.stack.example/",
        "https://login.stack.example:8443/other",
        "https://ours.example:8443/",
        "https://ours.example:8443/sign-in/more",
        "https://ours.example/sign-in",
        "https://mine.example:444",
        "http://mine.example",
        "https://mine.example@evil.example",
        " ",
    ],
)
def test_every_other_endpoint_is_refused_and_the_flag_is_named(endpoint: str) -> None:
    policy = SignInPolicy(STACK, allowed_endpoints=["https://mine.example/", "https://ours.example:8443/sign-in/"])
    error = refused(policy, identity(ad_endpoint=endpoint))
    assert "--allowed-ad-endpoints" in error.sentence
    assert "--allowed-ad-endpoints" in error.detail
    assert "evil" not in error.sentence


def test_without_an_endpoint_the_clouds_own_endpoint_is_used() -> None:
    assert SignInPolicy(PUBLIC).application(identity()).authority == Endpoint("login.microsoftonline.com")
    assert SignInPolicy(STACK).application(identity()).authority == Endpoint("login.stack.example", 8443, "/adfs")


@pytest.mark.parametrize(
    "allowed", ["", "mine.example", "http://mine.example", "https://a@b", "https://mine.example/?"]
)
def test_an_invalid_allowed_endpoint_is_reported_at_the_start(allowed: str) -> None:
    with pytest.raises(ValueError, match="https://host/"):
        SignInPolicy(PUBLIC, allowed_endpoints=[allowed])


@pytest.mark.parametrize("tenant", [TENANT, TENANT.upper(), f" {TENANT}\n", "contoso.onmicrosoft.com", "adfs"])
def test_a_tenant_is_an_id_a_domain_or_a_well_known_name(tenant: str) -> None:
    assert SignInPolicy(PUBLIC).application(identity(tenant_id=tenant)).tenants == (tenant.strip(),)
    named = SignInPolicy(PUBLIC).application(identity(auxiliary_tenant_ids=[tenant]))
    assert named.tenants == (TENANT, tenant.strip())


@pytest.mark.parametrize(
    "tenant",
    ["", "..", "a/../b", "a\\b", "a?b", "a#b", "a%2fb", "a b", "a\nb", "a.", "-a", "tenänt", "a" * 254],
)
def test_an_invalid_tenant_is_refused(tenant: str) -> None:
    assert "tenant" in refused(SignInPolicy(PUBLIC), identity(tenant_id=tenant)).detail
    assert "tenant" in refused(SignInPolicy(PUBLIC), identity(auxiliary_tenant_ids=[TENANT, tenant])).detail


def test_the_number_of_tenants_is_limited() -> None:
    policy = SignInPolicy(PUBLIC)
    assert len(policy.application(identity(auxiliary_tenant_ids=[TENANT] * AUXILIARY_MAX)).tenants) == AUXILIARY_MAX + 1
    refused(policy, identity(auxiliary_tenant_ids=[TENANT] * (AUXILIARY_MAX + 1)))


@pytest.mark.parametrize("client_id", ["", " ", "x" * 257])
def test_a_client_id_is_required(client_id: str) -> None:
    assert "clientID" in refused(SignInPolicy(PUBLIC), identity(client_id=client_id)).detail


def test_a_message_about_an_identity_is_one_short_line() -> None:
    error = refused(SignInPolicy(PUBLIC), identity(ad_endpoint="https://x\r\nI0101 forged] line" + "y" * 10_000))
    assert error.detail.isprintable()
    assert len(error.detail) < 600


@pytest.mark.parametrize(
    "changed",
    [
        {"ad_endpoint": "https://evil.example"},
        {"client_password": SecretReference(name="sp", namespace="team-b")},
        {"client_password": None},
        {"tenant_id": "../x"},
    ],
    ids=["endpoint", "secret", "no-secret", "tenant"],
)
async def test_a_refused_identity_causes_no_read_and_no_call(changed: dict[str, Any]) -> None:
    async with running(Bench()) as bench:
        principal = bench.principal("x")
        requested = bench.identity(principal, **changed)
        before = len(bench.kube.requests)
        with pytest.raises(PolicyError):
            bench.source.check(requested)
        with pytest.raises(PolicyError):
            await bench.fetch(requested)
        with pytest.raises(PolicyError):
            bench.source.key(requested)
        assert len(bench.kube.requests) == before
        assert (bench.aad.calls, bench.hosts) == ([], [])
        bench.source.check(bench.identity(principal))
