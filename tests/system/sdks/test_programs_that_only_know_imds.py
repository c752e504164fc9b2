"""Programs and libraries that get tokens only from IMDS, in pods behind the real nat rule, with the real NMI and MIC.

Each program makes a call to ARM or Storage. The emulator verifies the token, so its record of the caller shows whose
token the program has sent. IMDS_PROGRAMS=all adds the programs that take minutes to install.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from podidentity_sandbox.azure import USUAL_ROLES
from tests.support.sandbox.storage import ROLES as STORAGE_ROLES
from tests.support.sandbox.storage import AzureWithStorage
from tests.system.sdks import imds_table
from tests.system.sdks.imds_programs import ACCOUNT, CONTAINER, Program, chosen, install, nightly, version_of
from tests.system.sdks.imds_table import CHECKS, Result
from tests.system.sdks.sdk_sandbox import SYSTEM_PATH, Pod, SdkSandbox, run_in

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session")]
STEP_SECONDS: Final = 120.0


def id_of(program: Program) -> str:
    return program.name.split(",")[0].replace(" ", "-")


@pytest.fixture(scope="session")
def results() -> Iterator[dict[str, Result]]:
    """Collect the results of this run, and write them for the table."""
    collected: dict[str, Result] = {}
    yield collected
    imds_table.add(imds_table.NEW_RESULTS, collected.values())


async def run(
    sandbox: SdkSandbox, program: Program, pod: Pod, folder: Path, client_id: str
) -> tuple[int, str, set[str]]:
    """Run the steps of the program in the pod, up to the first that fails.

    Return its exit code, its output, and the object ids of the callers that ARM or Storage has seen. MIC calls ARM too.
    """
    azure = sandbox.sandbox.azure
    assert isinstance(azure, AzureWithStorage)
    calls = azure.arm.calls if program.service == "ARM" else azure.storage.calls
    before, outputs, code = len(calls), [], 0
    shared = {"PATH": SYSTEM_PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
    shared |= sandbox.sandbox.commands.trust_environment()
    for step in await asyncio.to_thread(program.steps, folder, client_id):
        code, output = await run_in(pod, step.argv, {**shared, **step.environment}, seconds=STEP_SECONDS, folder=folder)
        outputs.append(output)
        if code != 0:
            break
    callers = {call.caller for call in calls[before:]}
    return code, "\n".join(outputs)[-3000:], callers - {"", azure.controller.object_id}


PODS: Final[Mapping[str, Sequence[str]]] = {
    "only": ["imds-only"],
    "named": ["imds-first", "imds-second"],
    "refused": [],
}
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
    program: Program, check: str, sdk_sandbox: SdkSandbox, results: dict[str, Result], tmp_path: Path
) -> None:
    # Installed already (see conftest): an installation here would block the sandbox, which runs in this process.
    if reason := install(program):
        pytest.skip(reason)
    checks = {**(results[program.name].checks if program.name in results else {}), check: False}
    today = datetime.now(UTC).date().isoformat()
    results[program.name] = Result(name=program.name, version=version_of(program), date=today, checks=checks)
    azure = sdk_sandbox.sandbox.azure
    assert isinstance(azure, AzureWithStorage)
    azure.storage.add_container(ACCOUNT, CONTAINER)
    identities = [await sdk_sandbox.identity(name) for name in PODS[check]]
    for identity in identities:
        azure.directory.grant(identity.object_id, *USUAL_ROLES, *STORAGE_ROLES)
    pod = await sdk_sandbox.pod(*PODS[check], labelled=bool(identities))
    client_id = identities[-1].client_id if check == "named" else ""
    code, output, callers = await run(sdk_sandbox, program, pod, tmp_path, client_id)
    assert callers == {identity.object_id for identity in identities[-1:]}, output
    if identities:
        assert (code == 0) is program.succeeds, output
    else:  # it ends with an error of its own, not after a timeout
        assert (await sdk_sandbox.count_responses(pod))[400] >= 1
        assert program.error in output if program.error else code != 0, output
    checks[check] = True
