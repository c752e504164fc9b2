"""Which permissions of identity bindings doctor checks, and with how many requests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from podidctl.doctor import binding_permissions, federated_access
from podidctl.doctor.binding_permissions import USES_MAX, BindingUse, binding_uses
from podidctl.doctor.federated_access import read_federated_access
from podidctl.doctor.programs import readable_configurations
from podidctl.doctor.state import Objects
from podidentity.resources import AzureIdentity, Pod
from tests.nmi.tokens.binding_bench import BindingBench, binding_bench
from tests.nmi.tokens.sign_in_bench import NAMESPACE
from tests.podidctl.doctor_inputs import nmi, objects
from tests.podidctl.federated import federated
from tests.support.nmi_objects import CLIENT_ID, binding, pod

BINDS = nmi("--federated-identities", "--federated-exchange=identityBindings")
DIRECT = nmi("--federated-identities")
CONFIGURATIONS = readable_configurations((BINDS,))
SHOP = BindingUse("ns/shop", CLIENT_ID)


def pairs(*identities: AzureIdentity, account: str = "shop") -> list[tuple[Pod, AzureIdentity]]:
    return [(pod(service_account=account), each) for each in identities or (federated(),)]


@pytest.mark.parametrize(
    ("daemons", "uses"),
    [((BINDS,), [SHOP]), ((DIRECT,), []), ((DIRECT, BINDS), [SHOP]), ((nmi(),), []), ((), [])],
    ids=["bindings", "direct", "during-a-rollout", "not-enabled", "no-nmi"],
)
def test_only_an_nmi_with_identity_bindings_needs_the_permission(daemons: tuple[object, ...], uses: object) -> None:
    assert binding_uses(pairs(), daemons) == uses  # type: ignore[arg-type]


def test_two_identities_with_one_client_id_are_one_use() -> None:
    assert binding_uses(pairs(federated(), federated("twin", client_id=CLIENT_ID.upper())), (BINDS,)) == [SHOP]


def test_a_pod_without_a_service_account_is_no_use() -> None:
    assert binding_uses(pairs(account=""), (BINDS,)) == []


@pytest.fixture
async def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BindingBench]:
    """An API server with RBAC, which lets `builder` use one identity."""
    # The parser of flags reads files, which a command may do in its loop and a test may not.
    for module in (binding_permissions, federated_access):
        monkeypatch.setattr(module, "readable_configurations", lambda _: CONFIGURATIONS)
    async with binding_bench(tmp_path, loopback=True) as made:
        yield made


def used_by(bound: BindingBench, number: int) -> Objects:
    """The pods of `builder` and of other service accounts, with one identity."""
    names = ["builder", *(f"account-{each}" for each in range(number - 1))]
    return objects(
        identities=(federated(namespace=NAMESPACE, client_id=bound.managed.client_id),),
        bindings=(binding(namespace=NAMESPACE),),
        assigned=(),
        pods=tuple(pod(name, namespace=NAMESPACE, uid=name, service_account=name) for name in names),
    )


async def test_the_api_server_decides_each_use(bound: BindingBench) -> None:
    access = await read_federated_access(bound.bench.client, used_by(bound, 2), (BINDS,))
    assert access.unpermitted == {bound.managed.client_id: (f"{NAMESPACE}/account-0",)}
    assert access.unchecked_uses == 0


async def test_one_run_checks_a_limited_number_of_uses(bound: BindingBench) -> None:
    access = await read_federated_access(bound.bench.client, used_by(bound, USES_MAX + 7), (BINDS,))
    assert access.unchecked_uses == 7
    assert isinstance(access.unpermitted, dict)
    assert sum(map(len, access.unpermitted.values())) in {USES_MAX - 1, USES_MAX}
