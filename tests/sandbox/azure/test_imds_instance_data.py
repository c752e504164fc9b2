"""Instance data of IMDS: objects as JSON, single values as text."""

import ipaddress

import pytest

from podidentity_sandbox.imds import HostIdentities, ImdsVm
from tests.sandbox.azure.conftest import Azure

INSTANCE = "/metadata/instance"


async def ask(azure: Azure, path: str, query: str = "&format=text") -> tuple[int, str, str]:
    """Return status, content type and body of the instance data at *path*."""
    azure.imds.hosts[:] = [
        ImdsVm(
            "vm",
            (ipaddress.IPv4Network("127.0.0.0/8"),),
            HostIdentities,
            compute={"name": "node-0", "location": "westeurope"},
        )
    ]
    url = f"{azure.imds.url}{path}?api-version=2021-02-01{query}"
    async with azure.session.get(url, headers={"Metadata": "true"}) as response:
        return response.status, response.content_type, await response.text()


@pytest.mark.parametrize(("leaf", "value"), [("name", "node-0"), ("location", "westeurope")])
async def test_a_value_is_served_as_text(azure: Azure, leaf: str, value: str) -> None:
    assert await ask(azure, f"{INSTANCE}/compute/{leaf}") == (200, "text/plain", value)


@pytest.mark.parametrize("query", ["", "&format=json"])
async def test_a_value_is_not_served_as_json(azure: Azure, query: str) -> None:
    status, _, body = await ask(azure, f"{INSTANCE}/compute/name", query)
    assert (status, "format=text" in body) == (400, True)


async def test_an_object_is_served_as_json_or_as_the_list_of_its_members(azure: Azure) -> None:
    assert await ask(azure, INSTANCE) == (200, "text/plain", "compute/\nnetwork/")
    assert await ask(azure, f"{INSTANCE}/compute/") == (200, "text/plain", "name\nlocation")
    status, kind, body = await ask(azure, f"{INSTANCE}/compute", "&format=json")
    assert (status, kind) == (200, "application/json")
    assert body == '{"name":"node-0","location":"westeurope"}'


@pytest.mark.parametrize(
    "path",
    ["/compute/absent", "/compute/name/first", "/network/interface/0", "/network/interface/x", "-data", "/network/x"],
)
async def test_an_unknown_part_is_not_found(azure: Azure, path: str) -> None:
    assert (await ask(azure, f"{INSTANCE}{path}"))[0] == 404
