"""One sandbox for the whole session, and in it pods whose program is an application with a real SDK.

Only `pytest tests/sdks` (that is `make test-sdks`) collects this folder: its applications come from five registries.
As root a pod is a network namespace behind the real nat rule, and the SDKs ask 169.254.169.254 as everywhere. For an
ordinary user it is a loopback address, and only SDKs that honour AZURE_POD_IDENTITY_AUTHORITY_HOST can be led there.
"""

import asyncio
import inspect
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from podidentity_sandbox.sandbox import Sandbox, Settings
from tests.sdks.applications import APPLICATIONS, Application, ToolchainError, make_all
from tests.sdks.stage import SYSTEM_PATH, Said, Stage

HERE: Final = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): only for applications of which all these are true")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the folder out unless it, or something in it, was asked for by name."""
    del collection_path
    asked = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return None if any(path.resolve().is_relative_to(HERE) for path in asked) else True


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the applications ready: minutes when cold, which no single test's time limit should have to cover."""
    if not session.config.option.collectonly and any(HERE in item.path.parents for item in session.items):
        try:
            for _ in make_all():
                pass
        except ToolchainError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes an *application* runs with each that has all that the marker `needs` names.

    One that also takes a *selector* runs with each that the application offers.
    """
    if "application" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("needs")
    chosen = [one for one in APPLICATIONS if all(getattr(one, name) for name in (marker.args if marker else ()))]
    if "selector" in metafunc.fixturenames:
        pairs = [(one, selector) for one in chosen for selector in one.selectors]
        ids = [f"{one.name}-{selector}" for one, selector in pairs]
        metafunc.parametrize(("application", "selector"), pairs, ids=ids)
    else:
        metafunc.parametrize("application", chosen, ids=lambda one: one.name)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an application said before and after its pod's binding was deleted, and what NMI answered each time."""

    bound: Said
    bound_answers: Counter[int]
    unbound: Said
    unbound_answers: Counter[int]


Unbinding = asyncio.Task[dict[str, Outcome]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One node in a network namespace of its own, with the real MIC and NMI."""
    async with Sandbox(Settings(namespaces=True, environment=os.environ)) as sandbox:
        yield Stage(sandbox, tmp_path_factory.mktemp("home"))


async def _unbind_all(stage: Stage) -> dict[str, Outcome]:
    """By the application's name, how it fares in a pod that is unbound."""
    await stage.identity("taken-away")

    async def unbind(application: Application) -> Outcome:
        pod = await stage.pod("taken-away")
        bound = await stage.run(application, pod)
        bound_answers = await stage.answers(pod)
        await stage.unbind(pod, "taken-away")
        unbound = await stage.run(application, pod)
        return Outcome(bound, bound_answers, unbound, await stage.answers(pod) - bound_answers)

    outcomes = await asyncio.gather(*(unbind(application) for application in APPLICATIONS))
    return {application.name: outcome for application, outcome in zip(APPLICATIONS, outcomes, strict=True)}


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def unbinding(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Unbinding | None]:
    """Begun before the first test, wanted by the last: SDKs try for two minutes, which nobody has to sit through."""
    wanted = any("unbinding" in inspect.signature(item.obj).parameters for item in _functions(request.session))
    if not wanted or os.geteuid() != 0:
        yield None
        return
    settings = Settings(namespaces=True, environment=os.environ, nmi_flags=["--max-hold=1s"])
    async with Sandbox(settings) as sandbox:
        stage = Stage(sandbox, tmp_path_factory.mktemp("home"))
        task = asyncio.create_task(_unbind_all(stage), name="unbinding")
        yield task
        task.cancel()
        await asyncio.wait([task])


def _functions(session: pytest.Session) -> list[pytest.Function]:
    return [item for item in session.items if isinstance(item, pytest.Function)]


AZ: Final = """#!/bin/sh
[ "$1 $2" = "account get-access-token" ] || exit 2
echo '{"accessToken": "token-of-az", "expiresOn": "2098-01-01 00:00:00.000000", "expires_on": 4039372800,'
echo ' "subscription": "s", "tenant": "t", "tokenType": "Bearer"}'
"""
"""What Azure's command line says of an administrator who has logged in: a link of most chains behind ours."""


@pytest.fixture
def az(tmp_path: Path) -> dict[str, str]:
    """The environment of an application that finds `az`."""
    program = tmp_path / "az"
    program.write_text(AZ)
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:{SYSTEM_PATH}"}
