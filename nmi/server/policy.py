"""What the operator decided about the listener, as one frozen value. `nmi.policies` fills it from the settings."""

from dataclasses import dataclass, field
from typing import Final

from nmi.server.target import Forwarding

PIPELINE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large one request may be. Bytes, and numbers of things; each counts across reads."""

    head_bytes: int = 16 * 1024
    """Request line and fields. SDKs send under 1.5 kB; a service mesh's tracing and cookies stay under 8."""
    fields: int = 64
    target_bytes: int = 4096
    """A token request with every slash of a full ARM id escaped is under 900."""
    body_bytes: int = 16 * 1024
    """No token request has a body; scheduledevents approvals, where proxied, have a few hundred bytes. So it is read
    whole before its request is looked at."""
    answered_bytes: int = 64 * 1024
    """Answers to pipelined requests, written one after the other without a look at whether the peer reads them; the
    connection ends with the next answer beyond it."""
    pipelined_bytes: int = 64 * 1024
    """What may arrive behind a request that is being answered; the connection ends with that answer beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPolicy:
    """How the general lane treats requests. Times are seconds."""

    require_metadata_header: bool = True
    """Refuse token requests without `Metadata: true`: a browser or a forwarder tricked into asking cannot add it."""
    allow_x_forwarded_for: bool = False
    """Serve requests that carry X-Forwarded-For, which say that somebody asks on another's behalf."""
    block_instance_metadata: bool = False
    """Refuse /metadata/instance with 403."""
    set_retry_after: bool = False
    """Answer 503 with Retry-After, not 404, while an identity is on its way."""
    forwarding: Forwarding = field(default_factory=Forwarding)
    """What besides /metadata/instance may be proxied to IMDS."""
    host_tokens: bool = True
    """Serve /host/token to processes on the node. Which identities it gives out is the issuer's policy."""
    redirected_from: tuple[str, int] | None = None
    """Serve only connections that were meant for this address and port and redirected here; None: any. /host/token is
    apart, since nothing redirects the node's own processes."""
    log_each_request: bool = False
    """Write a line for each request (`-v 4`). The fast lane formats none, so it is left out then."""
    sizes: Sizes = field(default_factory=Sizes)
    pipeline_seconds: float = PIPELINE_SECONDS
    """How long an answer may take with part of the next request behind it, before the connection ends with that answer.
    Less than the lane's head_seconds."""
    answer_seconds: float = 55.0
    """Longest answer to one request whatever happens inside: SDKs give up a try at 60 seconds."""
    proxy_seconds: float = 20.0
    """One proxied request, its wait for a slot included."""
    proxy_connect_seconds: float = 3.0
    """Until IMDS accepts the connection: it is on the same machine."""
    proxy_silence_seconds: float = 10.0
    """Until the first byte of IMDS's answer, and between any two."""
    proxy_whole_bytes: int = 64 * 1024
    """Up to here an answer is read whole before its first byte is sent: if IMDS breaks off, the pod gets a clean 503.
    The instance document is about 20 kB; what is longer is passed on as it comes."""
    proxy_body_bytes: int = 256 * 1024
    """Largest proxied answer: an instance document whose userData is at its limit is under half of it."""
