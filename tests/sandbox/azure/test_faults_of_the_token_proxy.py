"""Faults of the token proxy that `podidctl sandbox fault proxy=VALUE` sets, as NMI sees them, and their end.

Excluded: what a user sees of them (`tests/podidctl/faults`).
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nmi.tokens.proxy_refusals import MissingStep, NotBoundError
from nmi.tokens.token_proxy import ProxyFailed, ProxyUnreachable
from podidentity.azure.errors import AzureError
from podidentity_sandbox.fault_control import FaultControl, FaultError, Service, proxy_error
from tests.nmi.tokens.binding_bench import BindingBench, binding_bench


@pytest.fixture
async def bound(tmp_path: Path) -> AsyncIterator[BindingBench]:
    async with binding_bench(tmp_path, loopback=True) as made:
        yield made


def control_of(bound: BindingBench) -> FaultControl:
    return FaultControl({"proxy": Service(bound.proxy.faults, proxy_error, conditions=bound.proxy.conditions)})


async def failure(bound: BindingBench) -> AzureError:
    """Return the error of an exchange."""
    with pytest.raises(AzureError) as error:
        await bound.fetch()
    return error.value


@pytest.mark.parametrize(
    ("value", "step"),
    [
        ("unbound", MissingStep.IDENTITY_BINDING),
        ("audience", MissingStep.AUDIENCE),
        ("server-name", MissingStep.ADDRESS),
        ("403", MissingStep.PERMISSION),
    ],
)
async def test_a_refusal_names_its_missing_step_until_the_fault_is_cleared(
    bound: BindingBench, value: str, step: MissingStep
) -> None:
    control = control_of(bound)
    await bound.fetch()
    control.set({"proxy": value})
    assert control.active == {"proxy": value}
    refused = await failure(bound)
    assert isinstance(refused, NotBoundError)
    assert refused.step is step
    control.clear()
    assert (await bound.fetch()).token.access_token


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ("certificate", ProxyUnreachable, "certificate is not trusted"),
        ("certificate-name", ProxyUnreachable, "certificate is not trusted"),
        ("500", ProxyFailed, "podidctl sandbox fault proxy=500"),
    ],
)
async def test_a_failure_has_its_cause_until_the_fault_is_cleared(
    bound: BindingBench, value: str, kind: type[AzureError], text: str
) -> None:
    control = control_of(bound)
    await bound.fetch()  # the connection is open
    control.set({"proxy": value})
    error = await failure(bound)
    assert isinstance(error, kind)
    assert text in error.message
    control.clear(["proxy"])
    assert (await bound.fetch()).token.access_token


async def test_another_fault_replaces_a_condition(bound: BindingBench) -> None:
    control = control_of(bound)
    control.set({"proxy": "unbound"})
    control.set({"proxy": "0.01s"})
    assert (await bound.fetch()).token.access_token
    control.set({"proxy": "audience"})
    assert isinstance(await failure(bound), NotBoundError)


async def test_an_unknown_value_lists_the_conditions_and_changes_nothing(bound: BindingBench) -> None:
    control = control_of(bound)
    control.set({"proxy": "unbound"})
    with pytest.raises(FaultError, match="unbound, audience, server-name, certificate, certificate-name, hang"):
        control.set({"proxy": "bound"})
    assert control.active == {"proxy": "unbound"}
