"""Requests of a pod to the metadata address, sent by `kubectl exec`."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from podidentity_sandbox.tokens import read_claims
from tests.system.node.bed import Bed
from tests.system.node.processes import BedError

TOKEN: Final = "/metadata/identity/oauth2/token"
RESOURCE: Final = "https://vault.azure.net"
_CODE: Final = """
import json, sys, urllib.error, urllib.request
path, headers, seconds = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
try:
    response = urllib.request.urlopen(
        urllib.request.Request("http://169.254.169.254" + path, headers=headers), timeout=seconds)
except urllib.error.HTTPError as error:
    response = error
except OSError as error:
    print(json.dumps([0, {}, str(error)]))
    sys.exit()
print(json.dumps([response.status, dict(response.headers), response.read().decode()]))
"""


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a pod's request. *status* is 0 if there was none; *body* is then the error."""

    status: int
    headers: Mapping[str, str]
    body: str = field(repr=False)
    """The content, which may be a token: no message shows it."""

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def identity(self) -> str:
        """The name of the managed identity, or the client id of the application, that the token is for."""
        claims = read_claims(str(self.document["access_token"]))
        return str(claims.get("xms_mirid", claims.get("appid", ""))).rpartition("/")[2]


def request(
    bed: Bed,
    pod: str,
    path: str,
    *,
    namespace: str = "default",
    metadata: bool = True,
    headers: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> Response:
    """Return the response to a GET of *path* by a pod; *metadata* adds the header that IMDS requires to *headers*."""
    sent = json.dumps({**({"Metadata": "true"} if metadata else {}), **(headers or {})})
    code = ("python3", "-c", _CODE, path, sent, str(seconds))
    return Response(*json.loads(bed.kubectl("exec", pod, f"--namespace={namespace}", "--", *code)))


def token(bed: Bed, pod: str, *, namespace: str = "default", seconds: float = 60) -> Response:
    """Return the response to a pod's request for a token."""
    parameters = urlencode({"api-version": "2018-02-01", "resource": RESOURCE})
    return request(bed, pod, f"{TOKEN}?{parameters}", namespace=namespace, seconds=seconds)


def eventually(bed: Bed, pod: str, identity: str, *, namespace: str = "default", seconds: float = 60) -> Response:
    """Return the first response with a token of *identity*, for a request as in `token`.

    Raise BedError after *seconds*.
    """
    end = time.monotonic() + seconds
    while True:
        response = token(bed, pod, namespace=namespace)
        if response.status == 200 and response.identity == identity:
            return response
        if time.monotonic() > end:
            got = f"a token of {response.identity}" if response.status == 200 else response.body[:300]
            raise BedError(f"{pod} got {response.status}, {got}, instead of a token of {identity}")
        time.sleep(0.5)
