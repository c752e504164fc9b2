"""Types 1 and 2: tokens of a service principal, from Entra ID or AD FS, by the secret or certificate in a Secret.

One fetch reads the Secret once, asks each tenant for a token, and forgets the Secret. Whether it may is decided first
(`nmi.tokens.endpoints`). What Azure refuses as not, or no longer, the application's own may have been replaced in that
very moment: the Secret is then read once more, and if it is another version by now, that one is tried.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from nmi.tokens.certificate import Signer
from nmi.tokens.claims import claims_of
from nmi.tokens.endpoints import Application, SignInPolicy
from nmi.tokens.secrets import ClientSecret, KeyStore, Secrets
from nmi.tokens.sign_in import InvalidClient, SignedIn, SignIn
from nmi.tokens.sign_ins import SignIns, Tries, in_time, token_of
from nmi.tokens.source import UNWATCHED, Course, Granted, PolicyError, Slot, Workload
from podidentity.azure.errors import AzureError
from podidentity.resources import AzureIdentity, IdentityType


class ServicePrincipalSource:
    """The source for both types. What it signs in by and the client of the API server stay their owners'."""

    per_pod = False

    def __init__(self, policy: SignInPolicy, secrets: Secrets, sign_ins: SignIns) -> None:
        self._policy = policy
        self._secrets = secrets
        self._sign_ins = sign_ins
        self._signer = Signer()

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
        course: Course = UNWATCHED,
        workload: Workload | None = None,  # noqa: ARG002  whose pod asks makes no difference
    ) -> Granted:
        """As TokenSource.fetch; raises PolicyError too, as `check` does."""
        application = self._policy.application(identity)
        tries = Tries(self._sign_ins.clock() + within, course)
        answers, version = await in_time(self._fetch(application, resource, xms_cc, tries), within)
        tokens = [token_of(answer, application.client_id, resource) for answer in answers]
        self._secrets.prove(application, version)
        return Granted(
            token=tokens[0],
            expires_in=min(answer.expires_in for answer in answers),
            object_id=claims_of(tokens[0].access_token).oid,
            auxiliary=tuple(tokens[1:]),
            credential=version,
        )

    async def _fetch(
        self, application: Application, resource: str, xms_cc: str, tries: Tries
    ) -> tuple[list[SignedIn], str]:
        """The answers of all tenants, and the version of the Secret that brought them."""
        proof = await self._sign_ins.again(lambda: self._proof(application), tries)
        try:
            return await self._sign_in(application, proof, resource, xms_cc, tries), proof.version
        except InvalidClient as error:
            refused = error.again()
        fresh = await self._sign_ins.again(lambda: self._proof(application), tries)
        if fresh.version == proof.version:
            raise _rejected(application, proof, refused)
        try:
            return await self._sign_in(application, fresh, resource, xms_cc, tries), fresh.version
        except InvalidClient as error:
            refused = error.again()
        raise _rejected(application, fresh, refused)

    async def _proof(self, application: Application) -> ClientSecret | KeyStore:
        """What is in the Secret now."""
        async with self._sign_ins.place(application.namespace):
            if application.type == IdentityType.CERTIFICATE:
                return await self._secrets.key_store(application)
            return await self._secrets.client_secret(application)

    async def _sign_in(
        self, application: Application, proof: ClientSecret | KeyStore, resource: str, xms_cc: str, tries: Tries
    ) -> list[SignedIn]:
        """An answer for each tenant, all asked at once; the first failure ends the others."""
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
            return await self._sign_ins.token(each, application.namespace, tries)

        if len(asked) == 1:
            return [await one(asked[0])]
        return await _all_at_once(asked, one)


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
        said=error.said,
    )


def _rejected(application: Application, proof: ClientSecret | KeyStore, refused: InvalidClient) -> InvalidClient:
    """*refused*, with the Secret named, and what is odd about it."""
    note = f" ({proof.note})" if proof.note else ""
    return InvalidClient(
        f"Secret {application.secret} holds nothing that is valid for this application{note}: {refused.message}",
        status=refused.status,
        code=refused.code,
        correlation_id=refused.correlation_id,
        said=refused.said,
    )
