"""Service accounts: TokenRequests, and the validity of the tokens.

A token may be bound to a pod, a node or a secret of its namespace. It is valid as long as that object and the service
account exist with the same uid. The real server does the same, but caches for ten seconds that a token is valid.
"""

import asyncio
import datetime
import uuid
from collections.abc import Callable
from typing import Final

from podidentity_sandbox.kubeapi import field_types
from podidentity_sandbox.kubeapi.statuses import Document, bad_request, conflict, invalid
from podidentity_sandbox.kubeapi.verbs import Verbs, format_time
from podidentity_sandbox.tokens import InvalidTokenError, SigningKey

SHORTEST_SECONDS: Final = 600
LONGEST_SECONDS: Final = 1 << 32
DEFAULT_SECONDS: Final = 3600
LEEWAY_SECONDS: Final = 60
"""The time for which a token remains valid after its pod or service account should have been deleted."""
GROUP: Final = "authentication.k8s.io"
_BOUND: Final = {"Pod": "pods", "Node": "nodes", "Secret": "secrets"}


class ServiceAccountTokens:
    """Gives tokens and recognises them. *issuer* is the server's URL."""

    def __init__(self, verbs: Verbs, *, issuer: Callable[[], str]) -> None:
        self._verbs = verbs
        self._issuer = issuer
        self._signer: SigningKey | None = None
        self._making = asyncio.Lock()

    async def signer(self) -> SigningKey:
        """Return the key, made at its first use: that takes a tenth of a second."""
        async with self._making:
            if self._signer is None:
                self._signer = await asyncio.to_thread(SigningKey)
            return self._signer

    async def give(self, namespace: str, name: str, request: Document) -> Document:
        """Return the TokenRequest with its status, for a service account. Raise StatusError."""
        signer = await self.signer()
        field_types.check_token_request(request)
        _check_names(request.get("metadata") or {}, namespace, name)
        spec = request.get("spec") or {}
        account = self._verbs.get(self._verbs.registry.named("serviceaccounts"), (namespace, name)).document
        seconds, reference = _seconds(spec), spec.get("boundObjectRef")
        audiences = spec.get("audiences") or [self._issuer()]
        now = self._verbs.now().astimezone(datetime.UTC).replace(microsecond=0)
        expires = now + datetime.timedelta(seconds=seconds)
        about: Document = {"namespace": namespace, "serviceaccount": _named(account)}
        if reference is not None:
            reference = {field: reference.get(field) or "" for field in ("kind", "apiVersion", "name", "uid")}
            about |= self._binding(namespace, name, reference)
        claims = {
            "aud": audiences,
            "exp": int(expires.timestamp()),
            "iat": int(now.timestamp()),
            "iss": self._issuer(),
            "jti": str(uuid.uuid4()),
            "kubernetes.io": about,
            "nbf": int(now.timestamp()),
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }
        return {
            "kind": "TokenRequest",
            "apiVersion": f"{GROUP}/v1",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": account["metadata"]["uid"],
                "creationTimestamp": format_time(now),
            },
            "spec": {
                "audiences": audiences,
                "expirationSeconds": seconds,
                "boundObjectRef": reference,
            },
            "status": {"token": signer.sign(claims), "expirationTimestamp": format_time(expires)},
        }

    def subject(self, token: str) -> str:
        """Return the user of a token that is valid for this server; else an empty string."""
        claims = self._valid_claims(token)
        if claims is None:
            return ""
        about = claims["kubernetes.io"]
        needed = [("serviceaccounts", "serviceaccount"), ("pods", "pod"), ("secrets", "secret")]
        if "pod" not in about:  # in a pod's token it only names the pod's node
            needed.append(("nodes", "node"))
        alive = all(self._lives(plural, about["namespace"], about[claim]) for plural, claim in needed if claim in about)
        return str(claims["sub"]) if alive else ""

    def _valid_claims(self, token: str) -> Document | None:
        """Return the claims of a token that this server issued for itself and that is valid now; else None."""
        try:
            claims = self._signer.claims(token) if self._signer is not None else None
        except InvalidTokenError:
            return None
        if claims is None or not claims["nbf"] <= self._verbs.now().timestamp() < claims["exp"]:
            return None
        return claims if self._issuer() in claims["aud"] else None

    def _lives(self, plural: str, namespace: str, reference: Document) -> bool:
        namespaced = self._verbs.registry.named(plural).namespaced
        item = self._verbs.history.get(plural, (namespace if namespaced else "", reference["name"]))
        if item is None or item.document["metadata"]["uid"] != reference["uid"]:
            return False
        ends = item.document["metadata"].get("deletionTimestamp")
        if not ends:
            return True
        moment = datetime.datetime.fromisoformat(ends) + datetime.timedelta(seconds=LEEWAY_SECONDS)
        return self._verbs.now() <= moment

    def _binding(self, namespace: str, account: str, reference: Document) -> Document:
        """Return the claims about the object to which the token is bound. Raise StatusError."""
        kind, name = reference["kind"], reference["name"]
        group, _, version = reference["apiVersion"].rpartition("/")
        if kind not in _BOUND or group:
            raise bad_request(f"cannot bind token to object of type {group}/{version}, Kind={kind}")
        if not name:
            raise bad_request("Name parameter required.")
        resource = self._verbs.registry.named(_BOUND[kind])
        bound = self._verbs.get(resource, (namespace if resource.namespaced else "", name)).document
        about = {kind.lower(): _named(bound)}
        if kind == "Pod":
            if bound["spec"].get("serviceAccountName") != account:
                raise bad_request(
                    f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount '
                    "name."
                )
            about |= self._node_of(bound)
        if reference["uid"] not in {"", bound["metadata"]["uid"]}:
            reason = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record. The "
                "object might have been deleted and then recreated"
            )
            raise conflict(kind, "", name, reason)
        return about

    def _node_of(self, pod: Document) -> Document:
        name = pod["spec"].get("nodeName")
        if not name:
            return {}
        node = self._verbs.history.get("nodes", ("", name))
        return {"node": _named(node.document) if node is not None else {"name": name}}


def _check_names(metadata: Document, namespace: str, name: str) -> None:
    if (metadata.get("namespace") or namespace) != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if (metadata.get("name") or name) != name:
        reason = f'Invalid value: "{metadata["name"]}": must match the service account name if specified'
        raise invalid("TokenRequest", GROUP, name, [("FieldValueInvalid", reason, "metadata.name")])


def _seconds(spec: Document) -> int:
    seconds: int = DEFAULT_SECONDS if spec.get("expirationSeconds") is None else spec["expirationSeconds"]
    if SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        return seconds
    reason = "a duration less than 10 minutes" if seconds < SHORTEST_SECONDS else "a duration larger than 2^32 seconds"
    message = f"Invalid value: {seconds}: may not specify {reason}"
    raise invalid("TokenRequest", GROUP, "", [("FieldValueInvalid", message, "spec.expirationSeconds")])


def _named(document: Document) -> Document:
    return {"name": document["metadata"]["name"], "uid": document["metadata"]["uid"]}
