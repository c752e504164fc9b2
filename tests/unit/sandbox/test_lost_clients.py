"""Clients that go away before a service has read their request."""

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from typing_extensions import override

from podidentity_sandbox.serving import FaultyService


class Forgotten(FaultyService):
    """A service whose clients go away."""

    @override
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raise ConnectionResetError


async def test_a_client_that_goes_away_is_no_error_of_the_service() -> None:
    response = await Forgotten().respond(make_mocked_request("POST", "/token"))
    assert response.status == 400
