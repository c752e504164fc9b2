"""The bench of identity bindings: an API server with RBAC, Entra ID, the sandbox's token proxy, and a pod.

On loopback the token proxy is reached over TLS. In memory it gets TLS's server name only.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from nmi.tokens.assertions import Assertions
from nmi.tokens.federated import FederatedSource
from nmi.tokens.proxy_refusals import NotBoundError
from nmi.tokens.source import NULL_OBSERVER, FetchedToken, FetchObserver, Workload
from nmi.tokens.token_proxy import Exchanges, ProxySettings
from nmi.tokens.token_proxy import TokenProxy as ProxyAddress
from podidentity.azure.federation import BINDING_AUDIENCE, BINDING_GROUP, BINDING_VERB, DIRECT_AUDIENCE, Exchange
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity
from podidentity_sandbox import federation
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.directory import ManagedIdentity
from podidentity_sandbox.token_proxy import SERVER_NAME, TokenProxy
from tests.support.nmi.tokens.sign_in_bench import NAMESPACE, Bench, running

RBAC = "rbac.authorization.k8s.io"
PROXY_HOST, PROXY_PORT = "token-proxy.example", 8443


class BindingBench:
    """A node whose identities use identity bindings. The identity is bound, and `builder` may use it."""

    def __init__(self, bench: Bench, directory: Path, client: Client | None = None) -> None:
        self.bench = bench
        self.client = client or bench.client
        self.authority = Authority("cluster")
        self.ca_file = directory / "ca.crt"
        self.ca_file.write_text(self.authority.pem)
        self.managed: ManagedIdentity = bench.directory.add_identity("/subscriptions/s/bound")
        self.proxy = TokenProxy(bench.directory, bench.aad)
        self.proxy.client = self.client
        self.workload = bench.pod("web", "builder")

    async def start(self, host: str = "127.0.0.1") -> None:
        if self.bench.loopback:
            await self.proxy.serve(self.authority, host)
        else:
            self.proxy.scheme, self.proxy.host, self.proxy.port = "https", PROXY_HOST, PROXY_PORT
            self.bench.serve(self.proxy.url, self.proxy.http())
        self.proxy.bind(self.managed.client_id)
        self.permit("builder")
        self.source = self.new_source()

    @property
    def settings(self) -> ProxySettings:
        if self.bench.loopback:
            return ProxySettings(self.proxy.proxy_url, SERVER_NAME, ca_file=str(self.ca_file))
        return ProxySettings(self.proxy.proxy_url, SERVER_NAME, ca_data=self.authority.pem)  # reads no file in the loop

    def new_source(self, settings: ProxySettings | None = None, *, audience: str = BINDING_AUDIENCE) -> FederatedSource:
        exchanges = Exchanges(Exchange.IDENTITY_BINDINGS, proxy=ProxyAddress(settings or self.settings))
        assertions = {
            Exchange.DIRECT: Assertions(self.client, DIRECT_AUDIENCE),
            Exchange.IDENTITY_BINDINGS: Assertions(self.client, audience),
        }
        policy, sign_ins = self.bench.policy, self.bench.sign_ins
        return FederatedSource(policy, assertions, sign_ins, enabled=True, exchanges=exchanges)

    def permit(self, account: str = "", *, group: str = "") -> None:
        """Let a service account, or the members of a group, use the identity."""
        store, client_id = self.bench.kube.store, self.managed.client_id
        name = f"use-{account or 'group'}"
        rule = {"verbs": [BINDING_VERB], "apiGroups": [BINDING_GROUP], "resources": [client_id]}
        subject: dict[str, str] = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
        if group:
            subject = {"kind": "Group", "name": group, "apiGroup": RBAC}
        store.create(f"clusterroles.{RBAC}", {"metadata": {"name": name}, "rules": [rule]})
        store.create(
            f"clusterrolebindings.{RBAC}",
            {
                "metadata": {"name": name},
                "subjects": [subject],
                "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
            },
        )

    def forbid(self, account: str) -> None:
        self.bench.kube.store.delete(f"clusterrolebindings.{RBAC}", f"use-{account}")

    def identity(self, **changed: Any) -> AzureIdentity:
        return self.bench.identity(self.managed, **{"type": 3, "client_password": None, **changed})

    async def fetch(
        self,
        workload: Workload | None = None,
        identity: AzureIdentity | None = None,
        within: float | None = None,
        observer: FetchObserver = NULL_OBSERVER,
    ) -> FetchedToken:
        identity, workload = identity or self.identity(), workload or self.workload
        how: dict[str, Any] = {
            "timeout_seconds": within or self.bench.within,
            "observer": observer,
            "workload": workload,
        }
        return await self.bench.fetch(identity, source=self.source, **how)


async def refused(bound: BindingBench, **how: Any) -> NotBoundError:
    """Return the error of a fetch, with its missing step."""
    with pytest.raises(NotBoundError) as error:
        await bound.fetch(**how)
    return error.value


@asynccontextmanager
async def binding_bench(
    directory: Path, host: str = "127.0.0.1", *, loopback: bool = False, client: Client | None = None
) -> AsyncIterator[BindingBench]:
    """Yield a running bench, whose proxy listens on *host* if it is on *loopback*.

    *client*: of another API server, whose pods, and permissions to use the identity, count.
    """
    async with running(Bench(rbac=True, loopback=loopback)) as bench:
        made = BindingBench(bench, directory, client)
        await made.start(host)
        fetch = federation.fetch if loopback else lambda _access, url: bench.issuer_document(url)
        try:
            with patch.object(federation, "fetch", fetch):
                yield made
        finally:
            await bench.session.close()  # first: the proxy would wait for the clients of open connections
            await made.proxy.stop()
