"""The API server's clock, read from the date of a response.

Times of Events and of NMI's log come from the cluster. If the clock of the operator's machine differs from the
cluster's, a recent refusal would look old, or an old one recent.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, NoResponse


def clock_difference(date: str, sent: datetime, seconds: float) -> timedelta | None:
    """Return how far the server's clock is ahead, by the Date of its response to a request that was *sent* then and
    took *seconds*; None without a usable date.
    """
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    # The header has whole seconds, rounded down.
    return theirs + timedelta(seconds=0.5) - (sent + timedelta(seconds=seconds / 2))


async def server_now(client: Client, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> datetime:
    """Return the time by the API server's clock; by this machine's (*now*) if the server does not state it. Raises
    NoResponse.
    """
    loop = asyncio.get_running_loop()
    sent, began = now(), loop.time()
    try:
        response = await client.open_response("/version", {})
    except NoResponse:
        raise
    except ApiError:
        return now()
    date = response.headers.get("date", "")
    response.close()
    return now() + (clock_difference(date, sent, loop.time() - began) or timedelta(0))
