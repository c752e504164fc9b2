"""Types 1 and 2: tokens of a service principal, from Entra ID or AD FS, with the secret or certificate of a Secret.

A fetch checks the policy (`nmi.tokens.endpoints`), reads the Secret once, requests a token from each tenant, and drops
the Secret. If Azure refuses the credential, it may have been replaced very recently: the source then reads the
Secret again and makes one more attempt if its version has changed.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from nmi.subprocesses import ProgramTimeoutError, run
from nmi.tokens.endpoints import ADFS, Application, SignInPolicy
from nmi.tokens.fair_queue import Charged, GroupLimiter
from nmi.tokens.secrets import ClientSecret, CredentialError, KeyStore, Secrets, SignerError
from nmi.tokens.sign_in import InvalidClient, SignIn, SignInResult
from nmi.tokens.sign_ins import Attempts, SignIns, token_of, within_time
from nmi.tokens.source import FetchContext, FetchedToken, FetchRequest, IdentityKey, decode_claims
from podidentity.azure.errors import AzureError
from podidentity.resources import AzureIdentity, IdentityType

PROGRAM: Final = Path(__file__).with_name("signing_program.py")

SIGNERS: Final = 2
"""Each process uses a core and 40 MiB for a moment."""
SIGNERS_PER_NAMESPACE: Final = 1
SIGNER_SECONDS: Final = 10.0
"""The timeout of the process. It limits its CPU time to three seconds; the rest is for a busy node. So a timeout is a
failure of this node, and no property of the certificate."""


class _SignerOutput(msgspec.Struct):
    assertions: list[str] = []
    problem: str = ""


class Signer:
    """Creator of client assertions, signed by `nmi.tokens.signing_program` in a separate process.

    It stores nothing of a call.
    """

    def __init__(self) -> None:
        self._limiter = GroupLimiter(SIGNERS, SIGNERS_PER_NAMESPACE)

    async def assertions(
        self, application: Application, store: KeyStore, audiences: Sequence[str], charged: Charged
    ) -> list[str]:
        """Return an assertion for each of *audiences*, which are token endpoints, on behalf of *charged*.

        Raise CredentialError if the file is not usable, SignerError if the program fails. Cancellation kills the
        program.
        """
        request = {
            "pfx": base64.b64encode(store.pfx).decode(),
            "password": base64.b64encode(store.password).decode(),
            "client_id": application.client_id,
            "audiences": list(audiences),
            "adfs": application.tenants[0].lower() == ADFS,
        }
        # The author of one expensive certificate must not take all signing processes.
        async with self._limiter.acquire(application.namespace, charged):
            try:
                # -I ignores the environment and the working directory, which could provide other modules.
                finished = await run(
                    [sys.executable, "-I", str(PROGRAM)], given=json.dumps(request), seconds=SIGNER_SECONDS
                )
            except ProgramTimeoutError:
                # The limit of CPU time ends a program that computes: this one did not get that time.
                raise SignerError(
                    f"the signing program did not end within {SIGNER_SECONDS:g} s for `certificate` in Secret "
                    f"{application.secret}: the node is busy, or NMI's CPU limit is too low; raise that limit",
                    code="signer_timeout",
                ) from None
        if finished.code < 0:
            # A signal: the limit of CPU time. The file requires more work than any legitimate one.
            raise _unreadable(application, "requires more CPU time than NMI allows")
        try:
            output = msgspec.json.decode(finished.stdout, type=_SignerOutput)
        except msgspec.DecodeError:
            raise SignerError(
                f"the signing program failed (exit code {finished.code}); check the free memory of this node",
                code="signer_failed",
            ) from None
        if output.problem:
            raise _unreadable(application, output.problem)
        return output.assertions


class ServicePrincipalSource:
    """The source for both types. The caller owns the sign-ins and the client of the API server."""

    per_pod = False

    def __init__(self, policy: SignInPolicy, secrets: Secrets, sign_ins: SignIns) -> None:
        self._policy = policy
        self._secrets = secrets
        self._sign_ins = sign_ins
        self._signer = Signer()

    def check(self, identity: AzureIdentity) -> None:
        """Implement TokenSource.check. Reads and sends nothing."""
        self._policy.application(identity)

    def key(self, identity: AzureIdentity, /) -> IdentityKey:
        """Implement TokenSource.key."""
        application = self._policy.application(identity)
        return application.key(self._secrets.accepted_version(application))

    def accept(self, identity: AzureIdentity, credential: str, /) -> None:
        """Implement TokenSource.accept. Raise PolicyError as `check` does."""
        self._secrets.accept(self._policy.application(identity), credential)

    async def fetch(self, request: FetchRequest, context: FetchContext, /) -> FetchedToken:
        """Implement TokenSource.fetch. Raise PolicyError as `check` does.

        *lag_seconds* has no effect: an endpoint that does not know a new secret yet returns the same invalid_client as
        for a wrong one.
        """
        application = self._policy.application(request.identity)
        attempts = Attempts(self._sign_ins.clock() + context.timeout_seconds, context.observer, context.charged)
        results, version = await within_time(
            self._fetch(application, request.resource, request.xms_cc, attempts), context.timeout_seconds
        )
        tokens = [token_of(result, application.client_id, request.resource) for result in results]
        self._secrets.accept(application, version)
        return FetchedToken(
            token=tokens[0],
            expires_in=min(result.expires_in for result in results),
            object_id=decode_claims(tokens[0].access_token).oid,
            auxiliary=tuple(tokens[1:]),
            credential=version,
        )

    async def _fetch(
        self, application: Application, resource: str, xms_cc: str, attempts: Attempts
    ) -> tuple[list[SignInResult], str]:
        """Return the responses of all tenants, and the version of the Secret that brought them."""
        credential = await self._sign_ins.retry(lambda: self._read(application, attempts), attempts)
        try:
            return await self._sign_in(application, credential, resource, xms_cc, attempts), credential.version
        except InvalidClient as error:
            refused = error.again()
        # The Secret may have been replaced since it was read. The same version would be refused again.
        fresh = await self._sign_ins.retry(lambda: self._read(application, attempts), attempts)
        if fresh.version == credential.version:
            raise _rejected(application, credential, refused)
        try:
            return await self._sign_in(application, fresh, resource, xms_cc, attempts), fresh.version
        except InvalidClient as error:
            refused = error.again()
        raise _rejected(application, fresh, refused)

    async def _read(self, application: Application, attempts: Attempts) -> ClientSecret | KeyStore:
        """Return the present content of the Secret."""
        async with self._sign_ins.permit(application.namespace, attempts.charged):
            if application.type == IdentityType.CERTIFICATE:
                return await self._secrets.key_store(application)
            return await self._secrets.client_secret(application)

    async def _sign_in(
        self,
        application: Application,
        credential: ClientSecret | KeyStore,
        resource: str,
        xms_cc: str,
        attempts: Attempts,
    ) -> list[SignInResult]:
        """Sign in to all tenants concurrently and return their responses. The first failure cancels the others."""
        sign_ins = [
            SignIn(application.authority, tenant, application.client_id, resource, xms_cc)
            for tenant in application.tenants
        ]
        if isinstance(credential, ClientSecret):
            sign_ins = [replace(sign_in, secret=credential.value) for sign_in in sign_ins]
        else:
            urls = [sign_in.token_url for sign_in in sign_ins]
            assertions = await self._signer.assertions(application, credential, urls, attempts.charged)
            sign_ins = [
                replace(sign_in, assertion=assertion) for sign_in, assertion in zip(sign_ins, assertions, strict=True)
            ]

        async def send(sign_in: SignIn) -> SignInResult:
            return await self._sign_ins.token(sign_in, application.namespace, attempts)

        # A message about the only tenant needs no tenant.
        if len(sign_ins) == 1:
            return [await send(sign_ins[0])]
        return await _send_all(sign_ins, send)


async def _send_all(sign_ins: list[SignIn], send: Callable[[SignIn], Awaitable[SignInResult]]) -> list[SignInResult]:
    """Return the response to each, in order. The first failure cancels the others; its message begins with its
    tenant.
    """
    failures: list[AzureError] = []

    async def send_named(sign_in: SignIn) -> SignInResult | None:
        try:
            return await send(sign_in)
        except AzureError as error:
            failures.append(_of_tenant(sign_in.tenant, error))
            raise

    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(send_named(sign_in), name=f"sign in to tenant {sign_in.tenant}")
                for sign_in in sign_ins
            ]
    except* AzureError:
        # `failures` has the errors with their tenants, in the order of their occurrence.
        pass
    if failures:
        raise failures[0]
    return [result for task in running if (result := task.result()) is not None]


def _of_tenant(tenant: str, error: AzureError) -> AzureError:
    return type(error)(
        f"tenant {tenant}: {error.message}",
        status=error.status,
        code=error.code,
        retry_after=error.retry_after,
        correlation_id=error.correlation_id,
        sentence=error.sentence,
    )


def _rejected(application: Application, credential: ClientSecret | KeyStore, refused: InvalidClient) -> InvalidClient:
    """Return *refused* with the name of the Secret and the note about it."""
    note = f" ({credential.note})" if credential.note else ""
    return InvalidClient(
        f"Secret {application.secret} holds nothing that is valid for this application{note}: {refused.message}",
        status=refused.status,
        code=refused.code,
        correlation_id=refused.correlation_id,
        sentence=refused.sentence,
    )


def _unreadable(application: Application, fault: str) -> CredentialError:
    return CredentialError(f"`certificate` in Secret {application.secret} {fault}", code="certificate_unfit")
