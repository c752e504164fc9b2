"""A client of Azure for a program that only reads, from the settings of MIC."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from mic.azure.host_client import HostReader
from mic.startup.settings import Settings
from podidentity.daemon_settings import user_agent
from podidentity.exits import StartError

USER_AGENT: Final = "aad-pod-identity-mic-plan"


@asynccontextmanager
async def azure_reader(settings: Settings) -> AsyncIterator[tuple[str, HostReader]]:
    """Yield the cluster's own identity, or an empty string, and a client of Azure. Raise StartError."""
    # These imports take half a second, and a survey without Azure does not need them.
    from mic.azure.compute import Compute  # noqa: PLC0415  see above
    from mic.startup.cloud_config import ConfigError, ca_bundle, cloud_of, credential_for, read  # noqa: PLC0415  see above

    # The report contains a failed sign-in with the affected hosts; the library's own lines add nothing.
    logging.getLogger("azure").setLevel(logging.ERROR)

    def configured() -> tuple[str, Compute, Closing]:
        config = read(settings.cloud_config, settings.environment)
        cloud = cloud_of(config, settings.azure_environment_file)
        bundle = ca_bundle(settings.ca_bundle)
        trust = bundle.context if bundle is not None else None
        credential = credential_for(config, cloud, trust=trust)
        agent = user_agent(USER_AGENT, settings.custom_user_agent)
        compute = Compute(credential, cloud, user_agent=agent, api_version=settings.arm_api_version, ssl_context=trust)
        return config.user_assigned_identity, compute, credential

    try:
        own, compute, credential = await asyncio.to_thread(configured)
    except ConfigError as error:
        raise StartError(str(error)) from error
    try:
        yield own, compute
    finally:
        await compute.aclose()
        await credential.close()


class Closing(Protocol):
    """A credential that can be closed."""

    async def close(self) -> None: ...
