"""Azure's emulators after a jump of the wall clock: tokens that have expired are replaced."""

from dataclasses import dataclass

import aiohttp

from podidentity_sandbox.directory import Directory
from podidentity_sandbox.imds import TOKEN_PATH, HostIdentities, Imds
from podidentity_sandbox.tokens import TOKEN_SECONDS, TokenMint


@dataclass
class WallClock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_imds_returns_a_new_token_after_the_former_one_expired_in_a_suspension() -> None:
    clock, directory = WallClock(), Directory()
    mint = TokenMint(clock=clock)
    imds = Imds(mint, clock=clock)
    one = directory.add_identity("/one")
    await imds.start_on_loopback(lambda: HostIdentities((one,)))

    async def token() -> str:
        url = f"{imds.url}{TOKEN_PATH}?api-version=2018-02-01&resource=https://management.azure.com/"
        async with aiohttp.ClientSession() as session, session.get(url, headers={"Metadata": "true"}) as response:
            return str((await response.json())["access_token"])

    try:
        first = await token()
        assert await token() == first
        clock.now += TOKEN_SECONDS + 1
        second = await token()
        assert second != first
        assert mint.verify(second)["exp"] > clock.now
    finally:
        await imds.stop()
