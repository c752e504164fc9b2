"""The operator's settings for the listener, as one frozen value. `nmi.policies` creates it from the settings."""

import msgspec

from nmi.server.target import ProxiedPaths
from nmi.setting_table import HEAD_BYTES


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """The size limits of one request, in bytes or numbers. Each counts across reads."""

    head_bytes: int = HEAD_BYTES
    """Request line and fields: `--max-head-bytes`."""
    fields: int = 64
    target_bytes: int = 2048
    """A token request with every slash of a full ARM id escaped is under 900."""
    body_bytes: int = 16 * 1024
    """No token request has a body. Proxied scheduledevents approvals have a few hundred bytes. The body is therefore
    read completely before its request is handled."""
    response_bytes: int = 64 * 1024
    """Responses to pipelined requests that are written without a check that the peer reads them. Beyond it, the
    connection ends with the next response."""
    pipelined_bytes: int = 64 * 1024
    """Bytes that may arrive after a request that is being answered. Beyond it, that response ends the connection."""


class ServerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The general lane's policy for requests. Times are seconds."""

    require_metadata_header: bool = True
    """Refuse token requests without `Metadata: true`: a browser or forwarder with a forged request cannot add it."""
    allow_x_forwarded_for: bool = False
    """Serve requests with X-Forwarded-For, which a proxy sends on behalf of another client."""
    block_instance_metadata: bool = False
    """Refuse /metadata/instance with 403."""
    set_retry_after: bool = False
    """Answer 503 with Retry-After, not 404, while an identity is being assigned."""
    proxied_paths: ProxiedPaths = msgspec.field(default_factory=ProxiedPaths)
    """The paths in addition to /metadata/instance that may be proxied to IMDS."""
    host_tokens: bool = True
    """Serve /host/token to processes on the node. The token service's policy decides which identities it returns."""
    redirected_from: tuple[str, int] | None = None
    """Serve only connections to this address and port that were redirected here; None: any connection. /host/token is
    excluded, because the node's own processes are not redirected."""
    log_each_request: bool = False
    """Write a line for each request (`-v 4`). The fast lane writes no lines, so it is disabled then."""
    sizes: Sizes = msgspec.field(default_factory=Sizes)
    pipeline_seconds: float = 5.0
    """The time for a response while part of the next request has been read; after it, the connection ends with that
    response. Less than HEAD_SECONDS, after which the lane closes a connection whose next head is incomplete."""
    response_seconds: float = 55.0
    """The timeout of the response to one request: SDKs end an attempt after 60 seconds."""
    proxy_seconds: float = 20.0
    """One proxied request, including the wait for a permit."""
    proxy_connect_seconds: float = 3.0
    """Until IMDS accepts the connection: it is on the same machine."""
    proxy_silence_seconds: float = 10.0
    """Until the first byte of IMDS's response, and between any two."""
    proxy_whole_bytes: int = 64 * 1024
    """A response up to this size is read completely before its first byte is sent: if IMDS breaks off, the pod gets a
    503. The instance document has about 20 kB. Longer responses are streamed."""
    proxy_body_bytes: int = 256 * 1024
    """The largest proxied response: an instance document with the largest userData has less than half of it."""
