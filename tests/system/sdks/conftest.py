"""Fixtures for the SDK tests: one sandbox per session, with pods that run an application with a real SDK.

Only `pytest tests/system/sdks` (that is, `make test-sdks`) collects this folder, because its applications come from
five registries. It needs root: a pod is a network namespace behind the real nat rule, and the SDKs send their requests
to 169.254.169.254 as usual.
"""

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from podidentity_sandbox.settings import SandboxSettings
from tests.support.sandbox.storage import SandboxWithStorage
from tests.system.sdks.applications import APPLICATIONS, Application, ToolchainError
from tests.system.sdks.imds_programs import Program, install
from tests.system.sdks.sdk_sandbox import SYSTEM_PATH, SdkSandbox

HERE: Final = Path(__file__).parent
AZ: Final = """#!/bin/sh
[ "$1 $2" = "account get-access-token" ] || exit 2
echo '{"accessToken": "token-of-az", "expiresOn": "2098-01-01 00:00:00.000000", "expires_on": 4039372800,'
echo ' "subscription": "s", "tenant": "t", "tokenType": "Bearer"}'
"""
"""Replacement for Azure's command line after a login: in most chains a link after the managed identity."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): only for applications of which all these are true")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore this folder unless the command line names it or a path in it."""
    del collection_path
    paths = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return None if any(path.resolve().is_relative_to(HERE) for path in paths) else True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests outside of the session's event loop last.

    The sandboxes are part of that loop. While it does not run, their API servers do not respond, so that MIC loses its
    leadership and ends.
    """
    items.sort(key=lambda item: item.get_closest_marker("asyncio") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the applications here: without a cache this takes minutes, too long for the time limit of a test."""
    if session.config.option.collectonly:
        return
    parameters = [
        value for item in session.items if hasattr(item, "callspec") for value in item.callspec.params.values()
    ]
    try:
        for application in APPLICATIONS:
            if application in parameters:
                application.make()
        for program in {
            parameter.name: parameter for parameter in parameters if isinstance(parameter, Program)
        }.values():
            install(program)
    except ToolchainError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes *application* with each application that has every property named by the marker `needs`.

    Run a test that also takes *selector* with each selector of the application.
    """
    if "application" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("needs")
    chosen = [
        application
        for application in APPLICATIONS
        if all(getattr(application, name) for name in (marker.args if marker else ()))
    ]
    if "selector" in metafunc.fixturenames:
        pairs = [
            pytest.param(application, selector, id=f"{application.name}-{selector}", marks=nightly(application))
            for application in chosen
            for selector in application.selectors
        ]
        metafunc.parametrize(("application", "selector"), pairs)
    else:
        metafunc.parametrize(
            "application",
            [pytest.param(application, id=application.name, marks=nightly(application)) for application in chosen],
        )


def nightly(application: Application) -> Sequence[pytest.MarkDecorator]:
    """Return the marks of a test with *application*: most SDKs run nightly."""
    return () if application.each_change else (pytest.mark.nightly,)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sdk_sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SdkSandbox]:
    """Yield a stage with one node, which is a separate network namespace, and the real MIC and NMI."""
    async with SandboxWithStorage(SandboxSettings(namespaces=True, environment=os.environ)) as sandbox:
        yield SdkSandbox(sandbox, tmp_path_factory.mktemp("home"))


@pytest.fixture
def az(tmp_path: Path) -> dict[str, str]:
    """Install `az` and return an environment in which an application finds it."""
    program = tmp_path / "az"
    program.write_text(AZ)
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:{SYSTEM_PATH}"}
