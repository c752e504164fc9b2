"""The API server's listener: TLS, authentication, the paths outside of any kind, and the hooks for tests."""

import asyncio
import base64
import datetime
import hmac
import json
import logging
import secrets
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from typing_extensions import override

from podidentity_sandbox.certificates import LOOPBACK, Authority
from podidentity_sandbox.kubeapi import authorization, discovery, requests, responses
from podidentity_sandbox.kubeapi.accounts import ServiceAccountTokens
from podidentity_sandbox.kubeapi.authorization import ADMINISTRATOR, Authorizer, User, service_account_user
from podidentity_sandbox.kubeapi.handling import ReadLog, ReadPage, ResourceHandler
from podidentity_sandbox.kubeapi.history import History
from podidentity_sandbox.kubeapi.kinds import DEFINITIONS, Registry
from podidentity_sandbox.kubeapi.statuses import Document, StatusError, unauthorized
from podidentity_sandbox.kubeapi.store import Store
from podidentity_sandbox.kubeapi.verbs import NAMESPACES, Verbs
from podidentity_sandbox.serving import HttpService

log = logging.getLogger(__name__)

FIRST_NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
REQUESTS_KEPT: Final = 10_000
OWN_USER_AGENT: Final = "podidctl-sandbox/"
"""The beginning of the User-Agent of the sandbox's own clients, which `KubeApi.faults` do not concern."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it came in, for tests that count."""

    method: str
    path: str
    """With the query."""
    user_agent: str
    host: str = ""
    """The address or name, without port, to which the request was sent."""


class KubeApi(HttpService):
    """An API server on loopback, with TLS and one administrator's token.

    *definitions* are custom resource definitions to serve from the start. *keep* is how many changes of each kind can
    be resumed from. With *rbac* a service account may
    do what roles allow; otherwise every authenticated client may do everything. *now* is the wall clock of timestamps
    and ages, *clock* measures the time of watches.

    Data outlive `stop`: `start` again and clients resume where they were. Everything belongs to the loop's own thread.
    """

    scheme = "https"
    stop_seconds = 2.0

    def __init__(
        self,
        definitions: Iterable[Document] = (),
        *,
        authority: Authority | None = None,
        keep: int = 10_000,
        rbac: bool = False,
        issuer: str = "",
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.authority = authority or Authority("podidctl sandbox kubernetes")
        self.token = secrets.token_urlsafe(24)
        self.requests: deque[Recorded] = deque(maxlen=REQUESTS_KEPT)
        self.intercept: Callable[[Recorded], StatusError | None] | None = None
        """Called before each request: a StatusError is the response, None lets the request pass."""
        self._history = History(keep=keep)
        self._registry = Registry()
        self._given_issuer = issuer
        self._verbs = Verbs(self._history, self._registry, root_certificate=self.authority.pem, now=now)
        self.store = Store(self._verbs)
        self._authorizer = Authorizer(self._history, rbac=rbac)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tokens = ServiceAccountTokens(self._verbs, issuer=lambda: self.issuer)
        self._handler = ResourceHandler(self._verbs, tokens=self._tokens, flowing=self._flowing, clock=clock)
        for name in FIRST_NAMESPACES:
            self.store.create(NAMESPACES, {"metadata": {"name": name}})
        for definition in definitions:
            self.store.create(DEFINITIONS, definition)
        self._history.compact()

    @property
    def issuer(self) -> str:
        """The issuer of service account tokens: that of the constructor, or this server's URL."""
        return self._given_issuer or self.url

    @override
    async def start(self, host: str = "127.0.0.1", port: int = 0, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """Listen as `HttpService` does, with a certificate of this server's authority."""
        hosts = dict.fromkeys((host, *LOOPBACK))
        context = ssl_context or await asyncio.to_thread(self.authority.server_context, hosts)
        await super().start(host, port, ssl_context=context)

    @override
    def http(self) -> web.Server:
        return web.Server(self.respond, handler_cancellation=True, access_log=None)

    @override
    async def stop(self) -> None:
        """End every connection and close every socket; the data stay. Does nothing if it is not running."""
        self.drop_watches()
        self.resume()
        await super().stop()

    def kubeconfig(self) -> str:
        """Return a kubeconfig as text, with the administrator's token."""
        authority = base64.b64encode(self.authority.pem.encode()).decode()
        return kubeconfig({"server": self.url, "certificate-authority-data": authority}, self.token)

    def write_kubeconfig(self, path: Path) -> None:
        """Write the kubeconfig to *path*, readable by this user alone."""
        path.touch(mode=0o600)
        path.write_text(self.kubeconfig())

    def read_with(self, read_log: ReadLog | None = None, read_page: ReadPage | None = None) -> None:
        """Use *read_log* for `kubectl logs`, and *read_page* for the subresource `proxy` of pods."""
        self._handler.read_log, self._handler.read_page = read_log, read_page

    def compact(self) -> None:
        """Delete the history: resuming a watch or a paged list from before now is too old."""
        self._history.compact()

    def drop_watches(self) -> None:
        """End every watch in progress: the clients see the end of the stream."""
        for watch in tuple(self._handler.watches):
            watch.close()

    def send_bookmarks(self) -> None:
        """Send a bookmark now on every watch that requested bookmarks."""
        for watch in self._handler.watches:
            watch.send_bookmark()

    def watch_count(self, kind: str = "") -> int:
        """Return the number of open watches, of *kind* (named as in the store) or of all."""
        return sum(kind in {"", watch.target.resource.name} for watch in self._handler.watches)

    async def until_watched(self, kind: str = "", count: int = 1) -> None:
        """Return when there are exactly *count* watches, of *kind* or of all. The caller sets a deadline."""
        await self._handler.until(lambda: self.watch_count(kind) == count)

    def pause(self) -> None:
        """Answer nothing and send no event until `resume`; connections stay open."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def record(self, request: Recorded) -> None:
        """Record a request, before its response is known. Tests replace it."""
        self.requests.append(request)

    @override
    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        recorded = Recorded(
            request.method, request.path_qs, request.headers.get("User-Agent", ""), request.url.host or ""
        )
        self.record(recorded)
        await self._flowing.wait()
        try:
            own = recorded.user_agent.startswith(OWN_USER_AGENT)
            if not own and (fault := await self.faults.apply(request)) is not None:
                return fault
            if self.intercept is not None and (refusal := self.intercept(recorded)) is not None:
                return responses.refusal(refusal)
            return await self._route(request, self._authenticate(request))
        except StatusError as error:
            return responses.refusal(error)
        except ConnectionError:
            raise
        except Exception:
            log.exception("request failed in the sandbox's API server: report it with this traceback")
            return responses.refusal(StatusError(500, "InternalError", "an error on the server prevented the request"))

    def _authenticate(self, request: web.BaseRequest) -> User:
        """Return the client. Raise StatusError 401 for one without a valid token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if hmac.compare_digest(token.strip().encode(), self.token.encode()):
                return ADMINISTRATOR
            if account := self._tokens.subject(token.strip()):
                return service_account_user(account)
        raise unauthorized()

    async def _route(self, request: web.BaseRequest, user: User) -> web.StreamResponse:
        target = requests.target(self._registry, request.path)
        if target is not None:
            watch = requests.flag(request.query, "watch")
            self._authorizer.check(user, authorization.access_of(request.method, target, watch=watch))
            return await self._handler.response_to(request, target)
        if request.method == "POST" and (kind := authorization.REVIEWS.get(request.path)) is not None:
            review = await requests.document(request, kind)
            return responses.document(self._authorizer.review(kind, review, user), 201)
        return await self._outside(request)

    async def _outside(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=404, text="404 page not found\n")
        parts = request.path.strip("/").split("/")
        if parts[0] in {"healthz", "livez", "readyz"}:
            return web.Response(text="ok")
        if parts in (["api"], ["apis"]) and "as=APIGroupDiscoveryList" in request.headers.get("Accept", ""):
            response = responses.document(discovery.aggregated(self._registry, core=parts == ["api"]))
            response.headers["Content-Type"] = discovery.AGGREGATED
            return response
        if parts == ["openapi", "v2"]:
            return web.Response(content_type=discovery.OPENAPI_V2)
        if parts in ([".well-known", "openid-configuration"], ["openid", "v1", "jwks"]):
            return await self._for_relying_parties(parts)
        document = discovery.at(self._registry, parts, f"{self.host}:{self.port}")
        return responses.document(document) if document else web.Response(status=404, text="404 page not found\n")

    async def _for_relying_parties(self, parts: list[str]) -> web.StreamResponse:
        """Return the documents that verify a service account's token.

        Only authenticated clients get them, as on a real server without anonymous requests. A public issuer serves a
        copy of these documents elsewhere, never this server.
        """
        signer = await self._tokens.signer()
        if parts[0] == "openid":
            response = responses.document(signer.key_set())
            response.headers["Content-Type"] = "application/jwk-set+json"
        else:
            configuration = {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
            response = responses.document(configuration)
        response.headers["Cache-Control"] = "public, max-age=3600"
        return response


def kubeconfig(cluster: Mapping[str, str], token: str) -> str:
    """Return a kubeconfig for *cluster* with *token*. It is JSON, which is also YAML."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": cluster}],
        "users": [{"name": "sandbox", "user": {"token": token}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "sandbox"}}],
        "current-context": "sandbox",
    }
    return json.dumps(config, indent=2) + "\n"
