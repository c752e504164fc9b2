"""The sandbox's API server in memory: real clients reach it without sockets, so that time can be virtual."""

import functools
from pathlib import Path
from typing import Any, Final

from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.cluster import read_documents
from podidentity_sandbox.kubeapi.kinds import DEFINITIONS
from podidentity_sandbox.kubeapi.server import KubeApi, Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.checkout import ROOT
from tests.support.memory_network import MemoryNetwork
from tests.support.virtual_time import now

CRDS: Final = ROOT / "deploy" / "crds"
URL: Final = "http://kubernetes"

authority = functools.cache(Authority)


@functools.cache
def _definitions(directory: Path) -> tuple[dict[str, Any], ...]:
    """Return the definitions. Their YAML takes 0.1 s to read."""
    return tuple(
        document for document in read_documents(directory) if document.get("kind") == "CustomResourceDefinition"
    )


class MemoryApi(KubeApi):
    """An API server with the project's definitions or those of *directory*, by the clock of the running loop."""

    def __init__(self, directory: Path = CRDS, **settings: Any) -> None:
        """*settings* are those of KubeApi."""
        super().__init__(authority=authority(), clock=now, **settings)
        for definition in _definitions(directory):
            self.store.create(DEFINITIONS, definition)
        self.compact()
        self.network = MemoryNetwork()
        self.network.serve(URL, self.http())

    def cut(self) -> None:
        """Reset all connections, and refuse further ones."""
        self.network.cut(URL)

    def refuse(self, code: int, reason: str, *methods: str, what: str = "", times: int = 1_000_000) -> None:
        """Refuse the next *times* requests of these methods, or of all, whose path contains *what*."""
        left = iter(range(times))

        def intercept(request: Recorded) -> StatusError | None:
            chosen = (not methods or request.method in methods) and what in request.path
            return StatusError(code, reason, "refused by the test") if chosen and next(left, None) is not None else None

        self.intercept = intercept

    def written(self, what: str) -> list[str]:
        """Return the methods of the recorded writes whose path contains *what*."""
        return [request.method for request in self.requests if request.method != "GET" and what in request.path]

    def access(self, token: str = "") -> ClusterAccess:
        """Return the access with *token*, or the administrator's, without TLS."""

        async def authorization() -> str:
            return f"Bearer {token or self.token}"

        return ClusterAccess(URL, authorization=authorization)

    def client(self, user_agent: str, token: str = "", **options: Any) -> Client:
        """Return a client with *token*, or the administrator's, and *options* of Client. The caller closes it."""
        usual = {"open_session": self.network.open_aiohttp_session}
        return Client(self.access(token), user_agent=user_agent, **{**usual, **options})
