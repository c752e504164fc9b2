"""A program with the name `az`, with fixed data of the sandbox's subscription.

It returns what a `--query` requests, and records each command. It replaces the Azure CLI in the commands of a
documentation page; tests/repository/docs tests that the real `az` has these commands.
"""

import json
import re
import stat
import sys
from pathlib import Path
from typing import Final

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, RESOURCE_GROUP, SUBSCRIPTION, identity_id

KUBELET_IDENTITY: Final = "11111111-0000-4000-8000-000000000001"
DEMO_PRINCIPAL: Final = "11111111-0000-4000-8000-000000000002"
LOGIN_SERVER: Final = "myregistry.azurecr.io"
ANSWERS: Final = {
    "account show id": SUBSCRIPTION,
    "aks show nodeResourceGroup": RESOURCE_GROUP,
    "aks show identityProfile.kubeletidentity.objectId": KUBELET_IDENTITY,
    "group show id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{{name}}",
    "group show location": "westeurope",
    "acr show loginServer": LOGIN_SERVER,
    "identity show id": identity_id(DEMO_IDENTITY),
    "identity show clientId": DEMO_CLIENT_ID,
    "identity show principalId": DEMO_PRINCIPAL,
}
"""The answers by command and query."""
OTHERS: Final = ("docker", "pipx")
"""Programs that need a network, and are only recorded."""
PROGRAM: Final = """#!{python}
import json, sys
sys.path.insert(0, {root!r})
from tests.system.plane.e2e.azure_cli import answer
with open({log!r}, "a") as log:
    print(json.dumps([{name!r}, *sys.argv[1:]]), file=log)
sys.exit(answer({name!r}, sys.argv[1:]))
"""


def install(folder: Path, root: Path) -> Path:
    """Write the programs into *folder*. Return the file in which they record their command lines."""
    folder.mkdir()
    log = folder / "commands.jsonl"
    log.touch()
    for name in ("az", *OTHERS):
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, root=str(root), log=str(log), name=name))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return log


def commands(log: Path, program: str) -> list[list[str]]:
    """Return the recorded arguments of *program*."""
    recorded = [json.loads(line) for line in log.read_text().splitlines()]
    return [arguments for name, *arguments in recorded if name == program]


def options(arguments: list[str]) -> dict[str, str]:
    """Return the options of a command line of `az` by name; a switch has an empty value."""
    found: dict[str, str] = {}
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word.startswith("--"):
            found[word.removeprefix("--")] = "" if following.startswith("--") else following
    return found


def answer(name: str, arguments: list[str]) -> int:
    """Print the answer to a command line of the program *name*. Return the exit code."""
    if name != "az":
        if arguments[:1] == ["buildx"]:
            print("sha256:" + "0" * 64)  # noqa: T201 - the digest of a base image
        return 0
    given = options(arguments)
    if "query" not in given:
        return 0
    command = " ".join(re.split(r" -", " ".join(arguments))[0].split())
    found = ANSWERS.get(f"{command} {given['query']}")
    if found is None:
        print(f"az: no answer is known for {command} --query {given['query']}", file=sys.stderr)  # noqa: T201
        return 1
    print(found.format(name=given.get("name", "")))  # noqa: T201
    return 0
