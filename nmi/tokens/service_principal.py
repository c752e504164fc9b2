"""Types 1 and 2: tokens of a service principal, from Entra ID or AD FS, by the secret or certificate in a Secret.

One fetch reads the Secret once, asks each tenant for a token, and forgets the Secret. Whether it may is decided first
(`nmi.tokens.endpoints`). What Azure refuses as not, or no longer, the application's own may have been replaced in that
very moment: the Secret is then read once more, and if it is another version by now, that one is tried.
"""

import asyncio
import random as random_module
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp

from nmi.tokens.certificate import Signer
from nmi.tokens.claims import claims_of
from nmi.tokens.endpoints import Application, SignInPolicy
from nmi.tokens.entra_loader import Loader
from nmi.tokens.places import Places
from nmi.tokens.secrets import ClientSecret, KeyStore, Secrets
from nmi.tokens.sign_in import (
    ATTEMPT_SECONDS,
    CONNECTIONS,
    InvalidClient,
    ProxyFor,
    SignedIn,
    SignIn,
    no_proxy,
)
from nmi.tokens.source import Granted, PolicyError, Slot
from nmi.tokens.token import Token
from podidentity.azure.errors import AzureError, Refused, Unreachable
from podidentity.resources import AzureIdentity, IdentityType

if TYPE_CHECKING:
    from nmi.tokens.entra import Entra

T = TypeVar("T")

OF_ONE_NAMESPACE: Final = 4
"""Reads and sign-ins at once for the identities of one namespace, of CONNECTIONS in all: a slow endpoint is theirs."""

RETRY_DELAYS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second and each later try; a longer Retry-After is obeyed."""

Observe = Callable[[float, AzureError | None], None]
"""Told the seconds and the outcome of each sign-in."""


class ServicePrincipalSource:
    """The source for both types. The session and the client of the API server stay their owners'."""

    def __init__(
        self,
        policy: SignInPolicy,
        secrets: Secrets,
        session: aiohttp.ClientSession,
        *,
        proxy_for: ProxyFor = no_proxy,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retry_delays: tuple[float, ...] = RETRY_DELAYS,
        observe: Observe = lambda _seconds, _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """*session* is one of `sign_in.new_session`; *attempt_seconds* is for one sign-in."""
        self._policy = policy
        self._secrets = secrets
        self._session = session
        self._proxy_for = proxy_for
        self._attempt_seconds = attempt_seconds
        self._retry_delays = retry_delays
        self._observe = observe
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._sleep = sleep
        self._loader = Loader()
        self._signer = Signer()
        self._places = Places(CONNECTIONS, OF_ONE_NAMESPACE)

    def check(self, identity: AzureIdentity) -> None:
        """Raises PolicyError for an identity that no token may be fetched for. Reads and sends nothing."""
        self._policy.application(identity)

    def credential(self, identity: AzureIdentity) -> str:
        """As TokenSource.credential: the version that last brought a token; empty where `check` refuses."""
        try:
            return self._secrets.proven(self._policy.application(identity))
        except PolicyError:
            return ""

    async def fetch(
        self,
        identity: AzureIdentity,
        resource: str,
        *,
        xms_cc: str,
        bypass_cache: bool,  # noqa: ARG002  nothing is cached here
        within: float,
        lag_seconds: float,  # noqa: ARG002  an endpoint that lags says invalid_client, like one that does not
        slot: Slot,  # noqa: ARG002  IMDS is not asked
    ) -> Granted:
        """As TokenSource.fetch; raises PolicyError too, as `check` does."""
        application = self._policy.application(identity)
        limit = asyncio.timeout(within)
        try:
            async with limit:
                answers, version = await self._fetch(application, resource, xms_cc, self._clock() + within)
        except TimeoutError:
            if not limit.expired():
                raise
            failure = Unreachable("no token in the time that the request had left", code="timeout")
        else:
            tokens = [_token(answer, application, resource) for answer in answers]
            self._secrets.prove(application, version)
            return Granted(
                token=tokens[0],
                expires_in=min(answer.expires_in for answer in answers),
                object_id=claims_of(tokens[0].access_token).oid,
                auxiliary=tuple(tokens[1:]),
                credential=version,
            )
        raise failure

    async def _fetch(
        self, application: Application, resource: str, xms_cc: str, until: float
    ) -> tuple[list[SignedIn], str]:
        """The answers of all tenants, and the version of the Secret that brought them."""
        proof = await self._again(lambda: self._proof(application), until)
        try:
            return await self._sign_in(application, proof, resource, xms_cc, until), proof.version
        except InvalidClient as error:
            refused = error.again()
        fresh = await self._again(lambda: self._proof(application), until)
        if fresh.version == proof.version:
            raise _rejected(application, proof, refused)
        try:
            return await self._sign_in(application, fresh, resource, xms_cc, until), fresh.version
        except InvalidClient as error:
            refused = error.again()
        raise _rejected(application, fresh, refused)

    async def _proof(self, application: Application) -> ClientSecret | KeyStore:
        """What is in the Secret now. Takes a place too: a flood of fetches must leave others the API server."""
        async with self._places.one(application.namespace):
            if application.type == IdentityType.CERTIFICATE:
                return await self._secrets.key_store(application)
            return await self._secrets.client_secret(application)

    async def _sign_in(
        self, application: Application, proof: ClientSecret | KeyStore, resource: str, xms_cc: str, until: float
    ) -> list[SignedIn]:
        """An answer for each tenant, all asked at once; the first failure ends the others."""
        entra = (await self._loader.load())(
            self._session,
            proxy_for=self._proxy_for,
            attempt_seconds=self._attempt_seconds,
            wall_clock=self._wall_clock,
        )
        asked = [
            SignIn(application.authority, tenant, application.client_id, resource, xms_cc)
            for tenant in application.tenants
        ]
        if isinstance(proof, ClientSecret):
            asked = [replace(each, secret=proof.value) for each in asked]
        else:
            assertions = await self._signer.assertions(application, proof, [each.token_url for each in asked])
            asked = [replace(each, assertion=made) for each, made in zip(asked, assertions, strict=True)]

        async def one(each: SignIn) -> SignedIn:
            return await self._again(lambda: self._measured(entra, each, application.namespace), until)

        if len(asked) == 1:
            return [await one(asked[0])]
        return await _all_at_once(asked, one)

    async def _measured(self, entra: "Entra", asked: SignIn, group: str) -> SignedIn:
        """One try. One that the caller gives up is not observed: it says nothing about the endpoint."""
        async with self._places.one(group):
            sent = self._clock()
            try:
                answer = await entra.token(asked)
            except AzureError as error:
                self._observe(self._clock() - sent, error)
                raise
            self._observe(self._clock() - sent, None)
            return answer

    async def _again(self, call: Callable[[], Awaitable[T]], until: float) -> T:
        """What *call* gives, tried again after failures that repeating may cure, as long as that ends before *until*.

        Raises the AzureError of the last try.
        """
        failures = 0
        while True:
            try:
                return await call()
            except AzureError as error:
                if isinstance(error, Refused) or failures == len(self._retry_delays):
                    raise
                pause = self._retry_delays[failures] * (0.9 + 0.2 * self._random())
                pause = max(pause, error.retry_after or 0.0)
                failures += 1
                if self._clock() + pause >= until:
                    raise
            await self._sleep(pause)


async def _all_at_once(asked: list[SignIn], one: Callable[[SignIn], Awaitable[SignedIn]]) -> list[SignedIn]:
    """The answer to each, in order. The first failure ends the others, and its message begins with its tenant."""
    failures: list[AzureError] = []

    async def named(each: SignIn) -> SignedIn | None:
        try:
            return await one(each)
        except AzureError as error:
            failures.append(_of_tenant(each.tenant, error))
            raise

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(named(each), name=f"sign in to tenant {each.tenant}") for each in asked]
    except* AzureError:
        pass
    if failures:
        raise failures[0]
    return [answer for task in running if (answer := task.result()) is not None]


def _of_tenant(tenant: str, error: AzureError) -> AzureError:
    return type(error)(
        f"tenant {tenant}: {error.message}",
        status=error.status,
        code=error.code,
        retry_after=error.retry_after,
        correlation_id=error.correlation_id,
    )


def _rejected(application: Application, proof: ClientSecret | KeyStore, refused: InvalidClient) -> InvalidClient:
    """*refused*, with the Secret named, and what is odd about it."""
    note = f" ({proof.note})" if proof.note else ""
    return InvalidClient(
        f"Secret {application.secret} holds nothing that is valid for this application{note}: {refused.message}",
        status=refused.status,
        code=refused.code,
        correlation_id=refused.correlation_id,
    )


def _token(answer: SignedIn, application: Application, resource: str) -> Token:
    return Token(
        access_token=answer.access_token,
        expires_on=answer.expires_on,
        not_before=claims_of(answer.access_token).nbf,
        resource=resource,
        client_id=application.client_id,
        token_type=answer.token_type,
        ext_expires_in=answer.ext_expires_in,
    )
