"""The steps for clusters outside Azure (docs/federated-identities.md) with a real kube-apiserver and its flags.

Entra ID, whose part the sandbox's has, reaches the issuer's published documents only, and never the API server.
"""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from podidentity.azure.federation import DIRECT_AUDIENCE
from podidentity_sandbox.directory import FederatedCredential
from podidentity_sandbox.federation import (
    CONFIGURATION,
    KEY_SET,
    IssuerKeys,
    IssuerUnreachableError,
    match,
    read_assertion,
)
from podidentity_sandbox.proofs import NotProvenError
from podidentity_sandbox.serving import free_ports
from tests.support.kubectl_and_helm import Commands
from tests.support.testplane import up
from tests.support.waiting import until_sync

pytestmark = pytest.mark.plane

ISSUER: Final = "https://issuer.example"
ACCOUNT: Final = "own-issuer"
TOKENS: Final = f"/api/v1/namespaces/default/serviceaccounts/{ACCOUNT}/token"
TRUST: Final = FederatedCredential(ISSUER, f"system:serviceaccount:default:{ACCOUNT}", DIRECT_AUDIENCE)


class SecondApiServer:
    """A second kube-apiserver of the control plane: the same data and certificates, other flags for service accounts.

    It runs in the block of `running` only.
    """

    def __init__(self, plane: up.Plane) -> None:
        self.plane = plane
        self._port = free_ports(1)[0]
        self._url = f"https://127.0.0.1:{self._port}"
        self._folder = Path(plane.directory)
        self._commands = Commands(plane.kubeconfig)

    @contextlib.contextmanager
    def running(self, signing: Path, *others: Path, former_issuer: bool = False) -> Iterator[None]:
        """Run it with the flags of step 2. Tokens are signed with the key *signing* and verified with all keys."""
        words = [
            *(str(up.build()), "kube-apiserver", f"--etcd-servers={(self._folder / 'etcd-url').read_text()}"),
            *("--bind-address=127.0.0.1", f"--secure-port={self._port}", "--endpoint-reconciler-type=none"),
            f"--tls-cert-file={self._folder / 'server.crt'}",
            f"--tls-private-key-file={self._folder / 'server.key'}",
            *(f"--client-ca-file={self._folder / 'ca.crt'}", f"--token-auth-file={self._folder / 'tokens.csv'}"),
            *("--authorization-mode=RBAC", "--anonymous-auth=false", "--service-cluster-ip-range=10.96.0.0/16"),
            f"--service-account-issuer={ISSUER}",
            *([f"--service-account-issuer={self.plane.server}"] if former_issuer else []),
            f"--service-account-jwks-uri={ISSUER}{KEY_SET}",
            f"--service-account-signing-key-file={signing}",
            *(f"--service-account-key-file={key_file}" for key_file in (signing, *others)),
        ]
        log = self._folder / "second-log"
        with log.open("ab") as output:
            process = subprocess.Popen(words, stdout=output, stderr=output)

        def is_ready() -> bool:
            assert process.poll() is None, f"it ended: {log.read_text(errors='replace')[-2000:]}"
            return self._commands.done("kubectl", f"--server={self._url}", "get", "--raw", "/readyz").returncode == 0

        try:
            until_sync(is_ready, "the second API server is ready")
            yield
        finally:
            process.kill()  # its data are the first server's
            process.wait()

    def documents(self) -> dict[str, bytes]:
        """Return what step 3 publishes, by path."""
        paths = (CONFIGURATION, KEY_SET)
        return {path: self._commands.kubectl(f"--server={self._url}", "get", "--raw", path).encode() for path in paths}

    def token(self) -> str:
        """Return a token of the service account for Entra ID."""
        arguments = ("create", "token", ACCOUNT, "--namespace=default", f"--audience={DIRECT_AUDIENCE}")
        return self._commands.kubectl(f"--server={self._url}", *arguments).strip()

    def accepts(self, token: str) -> bool:
        """Return whether the server accepts a token of a service account."""
        # kubectl prefers the client certificate of a kubeconfig to --token.
        with contextlib.closing(up.Api(self._url, self.plane.ca, token)) as api:
            try:
                api("GET", "/apis")
            except RuntimeError as error:
                if ": 401 " not in str(error):
                    raise
                return False
        return True


class EntraId:
    """Checks assertions by the published documents."""

    def __init__(self) -> None:
        self.published: dict[str, bytes] = {}
        self.requested: list[str] = []
        self.keys = IssuerKeys(self._fetch)

    async def _fetch(self, url: str) -> bytes:
        assert url.startswith(ISSUER), "Entra ID does not reach the API server"
        self.requested.append(url.removeprefix(ISSUER))
        return self.published[self.requested[-1]]

    async def check(self, token: str) -> None:
        assertion = read_assertion(token)
        match(assertion, "client", [TRUST])
        await self.keys.check_signature(assertion)

    async def refusal(self, token: str) -> tuple[int, str]:
        with pytest.raises(NotProvenError) as refused:
            await self.check(token)
        return refused.value.number, str(refused.value)


@pytest.fixture
async def server(plane: up.Plane) -> AsyncIterator[SecondApiServer]:
    accounts = TOKENS.removesuffix(f"/{ACCOUNT}/token")
    await asyncio.to_thread(plane.api, "POST", accounts, {"metadata": {"name": ACCOUNT}})
    yield await asyncio.to_thread(SecondApiServer, plane)
    await asyncio.to_thread(plane.api, "DELETE", f"{accounts}/{ACCOUNT}")


@pytest.fixture
def former(plane: up.Plane) -> Path:
    """The key of the control plane's first server."""
    return Path(plane.directory) / "sa.key"


async def test_a_published_issuer_is_trusted_and_tokens_of_the_former_issuer_remain_valid(
    server: SecondApiServer, former: Path
) -> None:
    entra_id, first = EntraId(), server.plane
    with server.running(former, former_issuer=True):
        with pytest.raises(IssuerUnreachableError):
            await entra_id.check(server.token())
        entra_id.published = server.documents()
        entra_id.requested.clear()
        await entra_id.check(server.token())
        assert entra_id.requested == [CONFIGURATION, KEY_SET]
        assert json.loads(entra_id.published[CONFIGURATION])["issuer"] == ISSUER

        audience = {"spec": {"audiences": [DIRECT_AUDIENCE]}}
        number, sentence = await entra_id.refusal(first.api("POST", TOKENS, audience)["status"]["token"])
        assert (number, f"'{first.server}'" in sentence) == (700211, True)
        token = first.api("POST", TOKENS, {"spec": {"audiences": [first.server]}})["status"]["token"]
        assert server.accepts(token)
    with server.running(former):
        assert not server.accepts(token)


async def test_a_key_is_rotated_without_a_refused_exchange_if_both_are_published_first(
    server: SecondApiServer, former: Path, tmp_path: Path
) -> None:
    entra_id, following = EntraId(), tmp_path / "next.key"
    key = rsa.generate_private_key(65537, 2048)
    following.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    with server.running(former, following):
        entra_id.published = server.documents()
        assert len(json.loads(entra_id.published[KEY_SET])["keys"]) == 2
        before = server.token()
        await entra_id.check(before)
    with server.running(following, former):
        now = server.token()
        await entra_id.check(now)  # no document was published again
        assert read_assertion(now).key_id != read_assertion(before).key_id

        both = json.loads(entra_id.published[KEY_SET])["keys"]
        only = [key for key in both if key["kid"] == read_assertion(before).key_id]
        unprepared = EntraId()
        unprepared.published = entra_id.published | {KEY_SET: json.dumps({"keys": only}).encode()}
        assert (await unprepared.refusal(now))[0] == 7000272
