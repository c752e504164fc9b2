"""A program with the name `az`, with fixed data of the sandbox's subscription.

It returns what a `--query` requests, and records each command. It replaces the Azure CLI in the commands of a
documentation page; tests/repository/docs tests that the real `az` has these commands.
"""

import json
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
name, words = {name!r}, sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps([name, *words]), file=log)
if words[:1] == ["buildx"]:
    print("sha256:" + "0" * 64)  # the digest of a base image
if "--query" in words:
    command = next(at for at, word in enumerate(words) if word.startswith("-"))
    wanted = " ".join([*words[:command], words[words.index("--query") + 1]])
    known = {answers!r}
    if wanted not in known:
        sys.exit(f"az: no answer is known for {{wanted}}")
    print(known[wanted].format(name=words[words.index("--name") + 1] if "--name" in words else ""))
"""


def install(folder: Path) -> Path:
    """Write the programs into *folder*. Return the file in which they record their command lines."""
    folder.mkdir()
    log = folder / "commands.jsonl"
    log.touch()
    for name in ("az", *OTHERS):
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, log=str(log), name=name, answers=ANSWERS))
        program.chmod(0o755)
    return log


def commands(log: Path, program: str) -> list[list[str]]:
    """Return the recorded arguments of *program*."""
    recorded = [json.loads(line) for line in log.read_text().splitlines()]
    return [arguments for name, *arguments in recorded if name == program]
