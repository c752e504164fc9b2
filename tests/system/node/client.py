"""Actions on a test bed: requests of a pod to the metadata address by `kubectl exec`, and commands of podidctl.

And NMI's own report of its redirect.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from podidctl.verify.verdicts import Verification
from podidentity_sandbox.tokens import read_claims
from tests.system.node.bed import NAMESPACE, Bed
from tests.system.node.node import Node
from tests.system.node.processes import BedError, wait_for

TOKEN: Final = "/metadata/identity/oauth2/token"
RESOURCE: Final = "https://vault.azure.net"
METADATA: Final = {"Metadata": "true"}
"""The header that IMDS requires."""
SECONDS: Final = 60.0
STATE_URL: Final = "http://127.0.0.1:8085/debug/state"
_CODE: Final = """
import json, sys, urllib.error, urllib.request
path, headers, seconds = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
try:
    response = urllib.request.urlopen(
        urllib.request.Request("http://169.254.169.254" + path, headers=headers), timeout=seconds)
except urllib.error.HTTPError as error:
    response = error
except OSError as error:
    print(json.dumps([0, str(error)]))
    sys.exit()
print(json.dumps([response.status, response.read().decode()]))
"""


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a pod's request. *status* is 0 if there was none; *body* is then the error."""

    status: int
    body: str = field(repr=False)
    """The content, which may be a token: no message shows it."""

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def token_of(self) -> str:
        """The managed identity by name, or the application by client id, that the token is for; empty without one."""
        if self.status != 200:
            return ""
        claims = read_claims(str(self.document["access_token"]))
        return str(claims.get("xms_mirid", claims.get("appid", ""))).rpartition("/")[2]


def token_path(resource: str = RESOURCE, **parameters: str) -> str:
    """Return the path and query of a request for a token."""
    return f"{TOKEN}?{urlencode({'api-version': '2018-02-01', 'resource': resource, **parameters})}"


def request(
    bed: Bed,
    pod: str,
    path: str,
    *,
    namespace: str = "default",
    headers: Mapping[str, str] = METADATA,
    seconds: float = SECONDS,
) -> Response:
    """Return the response to a GET of *path* by a pod."""
    code = ("python3", "-c", _CODE, path, json.dumps(headers), str(seconds))
    return Response(*json.loads(bed.kubectl("exec", pod, f"--namespace={namespace}", "--", *code)))


def token(bed: Bed, pod: str, *, namespace: str = "default", seconds: float = SECONDS) -> Response:
    """Return the response to a pod's request for a token."""
    return request(bed, pod, token_path(), namespace=namespace, seconds=seconds)


def eventually(bed: Bed, pod: str, identity: str, *, namespace: str = "default", seconds: float = SECONDS) -> None:
    """Wait until a request as in `token` gets a token of *identity*. Raise BedError after *seconds*."""
    got = Response(0, "no request")

    def right() -> bool:
        nonlocal got
        got = token(bed, pod, namespace=namespace)
        return got.token_of == identity

    try:
        wait_for(right, seconds, "no token")
    except BedError:
        content = got.token_of or got.body[:300]
        raise BedError(f"{pod} got {got.status}, {content}, instead of a token of {identity}") from None


def podidctl(bed: Bed, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as the administrator of the cluster. Raise AssertionError if it prints no document."""
    done = bed.commands.done(sys.executable, "-m", "podidctl", *words, "--output=json")
    assert done.stdout, done.stderr
    return done


def verified(bed: Bed) -> tuple[int, dict[str, str]]:
    """Return the exit code of `podidctl verify`, and who answers the pods of each node."""
    done = podidctl(bed, "verify", f"--namespace={NAMESPACE}")
    nodes = msgspec.json.decode(done.stdout, type=Verification).nodes
    return done.returncode, {node.node: node.answered_by.value for node in nodes}


def selection(node: Node) -> tuple[str, str]:
    """Return backend and target that the NMI of a node reports. Raise BedError."""
    state = json.loads(node.run("curl", "--silent", "--fail", STATE_URL))["plumbing"]
    return str(state["backend"]), str(state["target"])
