"""One HTTP request from any network namespace of a sandbox to any address, and how it ended."""

import asyncio
import http.client
from collections.abc import Mapping
from functools import partial

from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.sandbox import Sandbox

RESET = "reset"
"""The peer closed the connection before an answer."""
TOKEN_TARGET = "/metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F"


def attempt(host: str, port: int, target: str, headers: Mapping[str, str], source: str) -> str:
    """Return the status of the answer, RESET, or the name of another error."""
    connection = http.client.HTTPConnection(host, port, timeout=10, source_address=(source, 0) if source else None)
    try:
        connection.request("GET", target, headers=dict(headers))
        return str(connection.getresponse().status)
    except ConnectionError:
        return RESET
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


async def attempt_from(
    sandbox: Sandbox,
    namespace: str,
    host: str,
    port: int,
    *,
    target: str = TOKEN_TARGET,
    headers: Mapping[str, str] | None = None,
    source: str = "",
) -> str:
    """Send a request from the namespace *namespace* of the sandbox: a node, `pod-UID`, or the fabric."""
    assert isinstance(sandbox.network, Fabric)
    given = {"Metadata": "true"} if headers is None else headers
    call = partial(attempt, host, port, target, given, source)
    return await asyncio.to_thread(sandbox.network.namespaces.call, namespace, call)
