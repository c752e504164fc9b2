"""Programs and libraries that get tokens only from IMDS, in pods behind the real nat rule, with the real NMI and MIC.

Each program makes a call to ARM or Storage. The emulator verifies the token, so its record of the caller shows whose
token the program has sent. IMDS_PROGRAMS=all adds the programs that take minutes to install.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from podidentity_sandbox.azure import USUAL_ROLES
from podidentity_sandbox.directory import ManagedIdentity
from tests.system.sdks import imds_table
from tests.system.sdks.imds_programs import ACCOUNT, CONTAINER, Program, chosen, install, nightly, version_of
from tests.system.sdks.imds_table import CHECKS, Result
from tests.system.sdks.sdk_sandbox import SYSTEM_PATH, Pod, SdkSandbox

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]
STEP_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a program, and the object ids of the callers that ARM or Storage has seen."""

    code: int
    output: str
    callers: frozenset[str]


def id_of(program: Program) -> str:
    return program.name.split(",")[0].replace(" ", "-")


@pytest.fixture(scope="session")
def results() -> Iterator[dict[str, Result]]:
    """Collect the results of this run, and write them for the table."""
    found: dict[str, Result] = {}
    yield found
    imds_table.add(imds_table.NEW_RESULTS, found.values())


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(sdk_sandbox: SdkSandbox) -> AsyncIterator[SdkSandbox]:
    """Yield the sandbox with a container, and the programs' own errors when a test fails."""
    sdk_sandbox.sandbox.azure.storage.add_container(ACCOUNT, CONTAINER)
    yield sdk_sandbox


async def identity(stage: SdkSandbox, name: str) -> ManagedIdentity:
    """Return an identity that may read ARM and write to Storage."""
    found = await stage.identity(name)
    stage.sandbox.azure.directory.grant(found.object_id, *USUAL_ROLES)
    return found


async def run(stage: SdkSandbox, program: Program, pod: Pod, folder: Path, client_id: str = "") -> Outcome:
    """Run the steps of the program in the pod, up to the first that fails."""
    azure = stage.sandbox.azure
    calls = azure.arm.calls if program.service == "ARM" else azure.storage.calls
    before, outputs, code = len(calls), [], 0
    shared = {"PATH": SYSTEM_PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
    shared |= stage.sandbox.commands.trust_environment()
    for step in await asyncio.to_thread(program.steps, folder, client_id):
        process = await asyncio.create_subprocess_exec(
            *pod.context.command(step.argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**shared, **step.environment},
        )
        try:
            async with asyncio.timeout(STEP_SECONDS):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        outputs.append(output.decode(errors="replace"))
        code = process.returncode or 0
        if code != 0:
            break
    callers = {call.caller for call in calls[before:] if call.caller in known_callers(stage)}
    return Outcome(code, "\n".join(outputs)[-3000:], frozenset(callers))


def known_callers(stage: SdkSandbox) -> set[str]:
    """Return the object ids of the identities of these tests: MIC calls ARM too."""
    directory = stage.sandbox.azure.directory
    return {each.object_id for each in directory.managed_identities()}


PODS: Final[Mapping[str, Sequence[str]]] = {"only": ["only"], "named": ["first", "second"], "refused": []}
"""The identities of the pod of each check, of which the program gets the last one."""


@pytest.mark.parametrize(
    ("program", "check"),
    [
        pytest.param(program, check, id=f"{id_of(program)}-{check}", marks=nightly(program))
        for program in chosen()
        for check in CHECKS
        if check != "named" or program.named
    ],
)
async def test_the_program_gets_a_token_of_its_pods_identity_or_fails(
    program: Program, check: str, stage: SdkSandbox, results: dict[str, Result], tmp_path: Path
) -> None:
    # Installed already (see conftest): an installation here would block the sandbox, which runs in this process.
    if reason := install(program):
        pytest.skip(reason)
    former = results.get(program.name)
    checks = {**(former.checks if former is not None else {}), check: False}
    today = datetime.now(UTC).date().isoformat()
    results[program.name] = Result(name=program.name, version=version_of(program), date=today, checks=checks)
    identities = [await identity(stage, f"imds-{name}") for name in PODS[check]]
    pod = await stage.pod(*(f"imds-{name}" for name in PODS[check]), labelled=bool(identities))
    outcome = await run(stage, program, pod, tmp_path, identities[-1].client_id if check == "named" else "")
    assert outcome.callers == {each.object_id for each in identities[-1:]}, outcome.output
    if identities:
        assert (outcome.code == 0) is program.succeeds, outcome.output
    else:  # it ends with an error of its own, not after a timeout
        assert (await stage.answers(pod))[400] >= 1
        assert program.error in outcome.output if program.error else outcome.code != 0, outcome.output
    checks[check] = True
