"""A client of Azure for a program that only reads, from the settings of MIC."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol

from mic.azure.host_client import AzureReader
from mic.startup.settings import MicSettings
from podidentity.daemon_settings import user_agent
from podidentity.exits import StartError

USER_AGENT: Final = "aad-pod-identity-mic-plan"
CLI_SECONDS: Final = 20
"""Time limit of the Azure CLI, which starts within seconds, and of a request after it."""
CLI_SIGN_IN: Final = "run az login, or pass --cloudconfig"


@asynccontextmanager
async def azure_reader(settings: MicSettings, *, by_cli: bool = False) -> AsyncIterator[tuple[str, AzureReader]]:
    """Yield the cluster's own identity, or an empty string, and a client of Azure. Raise StartError.

    *by_cli*: with the sign-in of the Azure CLI (az login), in the cloud that the environment names, and not with the
    credentials of *settings*.
    """
    # These imports take half a second, and a survey without Azure does not need them.
    from mic.azure.compute import Compute  # noqa: PLC0415  see above
    from mic.startup.cloud_config import (  # noqa: PLC0415  see above
        CliCredential,
        CloudConfig,
        ConfigError,
        ca_bundle,
        cloud_of,
        credential_for,
        read,
    )

    # The report contains a failed sign-in with the affected hosts; the library's own lines add nothing.
    logging.getLogger("azure").setLevel(logging.ERROR)

    def configured() -> tuple[str, Compute, Closing]:
        by_name = CloudConfig(cloud=settings.environment.get("CLOUD", ""))
        config = by_name if by_cli else read(settings.cloud_config, settings.environment)
        cloud = cloud_of(config, settings.azure_environment_file)
        bundle = ca_bundle(settings.ca_bundle)
        trust = bundle.context if bundle is not None else None
        agent = user_agent(USER_AGENT, settings.custom_user_agent)
        made = partial(Compute, cloud=cloud, user_agent=agent, api_version=settings.arm_api_version, ssl_context=trust)
        if by_cli:
            by_login = CliCredential(CLI_SECONDS)
            return "", made(by_login, request_seconds=2 * CLI_SECONDS, sign_in_action=CLI_SIGN_IN), by_login
        credential = credential_for(config, cloud, trust=trust)
        compute = made(credential)
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
