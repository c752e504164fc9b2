"""The concurrent reads of all hosts from Azure, and when the remaining reads are omitted."""

import asyncio

import pytest

from mic.azure.identities import HostIdentities
from mic.preview.survey import ask
from podidentity.azure.errors import AzureError, Refused, Throttled, Unreachable
from podidentity.azure.resource_ids import Host, VirtualMachine
from tests.support.objects import vm_id


def vm(number: int, subscription: str = "sub") -> VirtualMachine:
    return VirtualMachine(vm_id(f"n{number}").replace("/sub/", f"/{subscription}/"), subscription, "rg", f"n{number}")


class Azure:
    """Answers every host alike, but for those in `failures`."""

    def __init__(self, failures: dict[str, AzureError] | None = None, *, otherwise: AzureError | None = None) -> None:
        self.failures = failures or {}
        self.otherwise = otherwise
        self.asked: list[str] = []
        self.most = self.now = 0

    async def get(self, host: Host) -> HostIdentities:
        self.asked.append(host.key)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        error = self.failures.get(host.key, self.otherwise)
        if error is not None:
            raise error
        return HostIdentities()


async def test_each_host_is_read_once_and_few_concurrently() -> None:
    azure = Azure()
    hosts = [vm(number) for number in range(50)]
    answers = await ask(azure, hosts, parallel=4)
    assert answers == {host.key: HostIdentities() for host in hosts}
    assert len(azure.asked) == 50
    assert azure.most == 4


async def test_a_failed_read_does_not_suppress_the_results_of_other_hosts() -> None:
    bad = AzureError("broken", status=500)
    azure = Azure({vm(1).key: bad})
    answers = await ask(azure, [vm(number) for number in range(3)], parallel=1)
    assert answers == {vm(0).key: HostIdentities(), vm(1).key: bad, vm(2).key: HostIdentities()}


@pytest.mark.parametrize("error", [Refused("no token"), Refused("expired", status=401), Refused("bad", status=400)])
async def test_without_a_token_no_more_hosts_are_asked(error: AzureError) -> None:
    azure = Azure(otherwise=error)
    answers = await ask(azure, [vm(number) for number in range(50)], parallel=2)
    assert len(azure.asked) <= 2
    assert list(answers.values()) == [error] * 50


async def test_a_forbidden_host_does_not_prevent_the_reads_of_others() -> None:
    azure = Azure({vm(0).key: Refused("no role", status=403)})
    await ask(azure, [vm(0), vm(1)], parallel=1)
    assert len(azure.asked) == 2


async def test_a_throttled_subscription_gets_no_more_reads_and_others_do() -> None:
    error = Throttled("slow down", status=429, retry_after=30.0)
    azure = Azure({vm(0).key: error})
    hosts = [vm(0), vm(1), vm(2, "other")]
    answers = await ask(azure, hosts, parallel=1)
    assert answers == {vm(0).key: error, vm(1).key: error, vm(2, "other").key: HostIdentities()}
    assert azure.asked == [vm(0).key, vm(2, "other").key]


async def test_if_no_host_responds_not_every_host_waits_for_its_time_limit() -> None:
    azure = Azure(otherwise=Unreachable("no answer"))
    answers = await ask(azure, [vm(number) for number in range(50)], parallel=4)
    assert len(answers) == 50
    assert len(azure.asked) <= 8


async def test_if_one_host_responds_the_silent_ones_are_still_read() -> None:
    azure = Azure({vm(number).key: Unreachable("no answer") for number in range(1, 50)})
    await ask(azure, [vm(number) for number in range(50)], parallel=4)
    assert len(azure.asked) == 50
