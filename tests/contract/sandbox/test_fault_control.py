"""Faults switched on a running sandbox: their notation, the control socket, and what each service returns."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from podidentity.exits import StartError
from podidentity_sandbox.aad import Aad
from podidentity_sandbox.arm import Arm
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.fault_control import (
    FaultControl,
    Service,
    aad_error,
    azure_error,
    call,
    split,
)
from podidentity_sandbox.tokens import TokenMint


@pytest.fixture
async def arm() -> AsyncIterator[Arm]:
    arm = Arm(Directory(), TokenMint())
    await arm.start()
    yield arm
    await arm.stop()


@pytest.fixture
async def control(arm: Arm, tmp_path: Path) -> AsyncIterator[Path]:
    """The control socket of a sandbox with ARM and an AAD that nothing asks."""
    aad = Aad(Directory(), TokenMint())
    control = FaultControl({"arm": Service(arm, azure_error), "aad": Service(aad, aad_error)})
    await control.start(tmp_path / "control.sock")
    yield tmp_path / "control.sock"
    await control.stop()


async def status_of(arm: Arm) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{arm.url}/subscriptions") as response:
        return response.status


async def test_only_the_user_of_the_sandbox_can_open_the_socket(control: Path) -> None:
    status = await asyncio.to_thread(control.stat)
    assert stat.S_IMODE(status.st_mode) == 0o600


async def test_a_fault_is_set_listed_replaced_and_cleared(control: Path, arm: Arm) -> None:
    healthy = await status_of(arm)
    assert await call(control) == {}
    assert await call(control, wanted={"arm": "429", "aad": "hang"}) == {"arm": "429", "aad": "hang"}
    assert await status_of(arm) == 429
    assert await call(control, wanted={"arm": "503"}) == {"arm": "503", "aad": "hang"}
    assert await status_of(arm) == 503
    assert await call(control, clear=["arm"]) == {"aad": "hang"}
    assert await status_of(arm) == healthy != 503
    assert await call(control, wanted={"arm": "500"}) == {"arm": "500", "aad": "hang"}
    assert await call(control, clear=()) == {}
    assert await status_of(arm) == healthy


async def test_a_status_replaces_a_condition_and_ends_it(control: Path, arm: Arm) -> None:
    await call(control, wanted={"arm": "no-role", "aad": "no-credential"})
    assert arm.condition == "no-role"
    assert await call(control, wanted={"arm": "503"}) == {"arm": "503", "aad": "no-credential"}
    assert arm.condition == ""


async def test_a_hanging_request_is_answered_when_the_fault_is_cleared(control: Path, arm: Arm) -> None:
    healthy = await status_of(arm)
    await call(control, wanted={"arm": "hang"})
    hanging = asyncio.create_task(status_of(arm))
    done, _ = await asyncio.wait({hanging}, timeout=0.3)
    assert not done
    await call(control, clear=["arm"])
    assert await hanging == healthy


@pytest.mark.parametrize("value", ["200", "600", "4290", "-1s", "3601s", "nans", "", "hangs", "\u0665\u0660\u0660"])
async def test_an_invalid_fault_is_rejected_and_changes_nothing(control: Path, value: str) -> None:
    await call(control, wanted={"arm": "500"})
    with pytest.raises(StartError, match="use a status from 400 to 599, no-role, no-identity, no-vm, hang, or a delay"):
        await call(control, wanted={"aad": "503", "arm": value})
    assert await call(control) == {"arm": "500"}


async def test_an_unknown_service_is_rejected(control: Path) -> None:
    with pytest.raises(StartError, match="unknown service 'disk': use arm, aad"):
        await call(control, wanted={"disk": "500"})
    with pytest.raises(StartError, match="unknown service 'disk': use arm, aad"):
        await call(control, clear=["disk"])


@pytest.mark.parametrize("killed", [False, True])
async def test_a_sandbox_that_has_ended_is_reported_with_the_next_action(tmp_path: Path, killed: bool) -> None:
    path = tmp_path / "control.sock"
    if killed:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    with pytest.raises(StartError) as caught:
        await call(path)
    assert str(caught.value) == (
        f"cannot reach the sandbox at {tmp_path}: it has ended or is not ready; start one with podidctl sandbox up, "
        "then use the variables that it prints"
    )


@pytest.mark.parametrize("text", ["imds", "=500", "imds=", ""])
def test_a_fault_without_service_or_value_is_rejected(text: str) -> None:
    with pytest.raises(StartError, match="is not SERVICE=VALUE"):
        split(text)


def test_a_fault_is_split_at_the_first_equals_sign() -> None:
    assert split("aad=2.5s") == ("aad", "2.5s")
    assert split("aad=a=b") == ("aad", "a=b")
