"""Requests: what must be answered with a token (ACCEPTED), and what never may be (REFUSED).

FAST_REFUSALS names those that the fast lane may refuse. All are asked from 127.0.0.1, which makes a difference at
/host/token only. A request that was ever read wrongly is added to one of both tables.
"""

from dataclasses import dataclass, field
from typing import Final

TOKEN: Final = "/metadata/identity/oauth2/token"
INSTANCE: Final = "/metadata/instance"
METADATA: Final = "Metadata: true"
RESOURCE: Final = "resource=https%3A%2F%2Fmanagement.azure.com%2F"
QUERY: Final = f"api-version=2018-02-01&{RESOURCE}"
CURL: Final = ("User-Agent: curl/8.5.0", "Accept: */*")


def request(target: str = INSTANCE, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return a request with these fields and a Host."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *fields, "", ""]).encode("latin-1") + body


def disguised(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return a request to *path* that would get a token at the token path."""
    return request(f"{path}?resource=r", METADATA, *fields, method=method, body=body)


def events(*fields: str, body: bytes = b"") -> bytes:
    """Return a POST to a path that NMI does not forward."""
    return request("/metadata/scheduledevents", *fields, method="POST", body=body)


def plain(
    *fields: str,
    method: str = "GET",
    path: str = TOKEN,
    query: str | None = QUERY,
    version: str = "HTTP/1.1",
    host: str | None = "Host: 169.254.169.254",
    metadata: str | None = METADATA,
    body: bytes = b"",
) -> bytes:
    """Return a token request with *fields* at its end. Without other arguments, NMI answers it with a token."""
    target = path if query is None else f"{path}?{query}"
    head = [f"{method} {target} {version}", host, metadata, *fields, "", ""]
    return "\r\n".join(line for line in head if line is not None).encode("latin-1") + body


@dataclass(frozen=True, slots=True)
class Case:
    """One request."""

    name: str
    data: bytes = field(repr=False)

    @property
    def fast(self) -> bool:
        """Whether the fast lane answers it as soon as an answer is ready."""
        return self.grants_fast or self.name in FAST_REFUSALS

    @property
    def grants_fast(self) -> bool:
        """Whether the fast lane answers it with a token."""
        return not self.name.startswith("general-") and not self.name[:1].isdigit()

    @property
    def status(self) -> int:
        """The status of its response."""
        return int(self.name[:3]) if self.name[:3].isdigit() else 200


CLIENT_ID: Final = "5f8D0c1E-2b7a-4c55-9a34-7f9e2d1c0b6a"
RESOURCE_ID: Final = (
    "%2Fsubscriptions%2F8a2f6f0e-7d0c-4a44-9d6e-0a3c1f7b52d4%2FresourceGroups%2Fteam"
    "-a%2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2FReader"
)

_ACCEPTED: Final[dict[str, bytes]] = {
    "azidentity-go-client-id": plain(
        "User-Agent: azsdk-go-azidentity/v1.10.0", "Accept-Encoding: gzip", query=f"{QUERY}&client_id={CLIENT_ID}"
    ),
    "azure-identity-python": plain(
        "User-Agent: azsdk-python-identity/1.27.0 Python/3.12.3 (Linux-6.8)",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
        "x-ms-client-request-id: 1b6d",
    ),
    "connection-close": plain("Connection: close"),
    "connection-keep-alive-any-case": plain("connection: Keep-Alive"),
    "curl": plain(*CURL),
    "empty-field-value": plain("X-Empty:"),
    "escaped-semicolon": plain(*CURL, query="api-version=2018-02-01&resource=%3Bhttps%3A%2F%2Fmanagement.azure.com%2F"),
    "general-bypass-cache": plain(query=f"{QUERY}&bypass_cache=true"),
    "general-connection-list": plain("Connection: keep-alive, close"),
    "general-doubled-ampersand": plain(*CURL, query=f"api-version=2018-02-01&&{RESOURCE}"),
    "general-empty-line-before": b"\r\n" + plain(),
    "general-empty-selector": plain(query=f"{QUERY}&client_id="),
    "general-escaped-parameter-name": plain(query="%72esource=x"),
    "general-host-empty": plain(host="Host:"),
    "general-host-ipv6": plain(host="Host: [fd00::1]:80"),
    "general-http-1.0-without-host": plain(version="HTTP/1.0", host=None),
    "general-http-1.0": plain(version="HTTP/1.0"),
    "general-latin-1-field": plain("X-Name: M\xfcller"),
    "general-long-resource": plain(query="resource=" + "r" * 1600),
    "general-more-fields-than-the-fast-lane-looks-at": plain(*(f"X-Field-{number}: value" for number in range(40))),
    "general-plus-is-a-space": plain(query="resource=a+b"),
    "general-te": plain("TE: trailers", "Connection: TE"),
    "general-unknown-parameter": plain(query=f"{QUERY}&authority=x"),
    "general-upgrade-offered": plain(
        "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
    ),
    "general-utf-8-resource": plain(query="resource=%C3%A9"),
    "header-names-next-to-the-refused": plain(
        "X-Forwarded-Fo: 1",
        "X-Forwarded-Host: a",
        "Content-Lengt: 3",
        "Transfer-Encodin: chunked",
        "Expec: 100-continue",
        "Upgrad: h2c",
        "Traile: x",
    ),
    "host-name": plain(host="Host: imds.internal_zone.example"),
    "host-with-port": plain(host="Host: 127.0.0.1:2579"),
    "many-fields": plain(*(f"X-Field-{number}: value" for number in range(28))),
    "metadata-value-capitalised": plain(metadata="Metadata: True"),
    "metadata-value-upper-case-no-space": plain(metadata="METADATA:TRUE"),
    "metadata-value-with-white-space": plain(metadata="Metadata: \t true \t"),
    "msal4j-doubled-slash-and-mi_res_id": plain(
        "Accept: text/html, image/gif, */*; q=.2",
        path="//metadata/identity/oauth2/token",
        query=f"{QUERY}&mi_res_id={RESOURCE_ID}",
    ),
    "msi-res-id-with-hyphens": plain(query=f"{QUERY}&msi-res-id={RESOURCE_ID}"),
    "msi_res_id": plain(query=f"{QUERY}&msi_res_id={RESOURCE_ID}"),
    "no-api-version": plain(query="resource=https%3A%2F%2Fvault.azure.net"),
    "object-id": plain(query=f"{QUERY}&object_id={CLIENT_ID}"),
    "parameters-in-other-order": plain(
        query=f"client_id={CLIENT_ID}&resource=https%3A%2F%2Fvault.azure.net&api-version=2018-02-01"
    ),
    "path-doubled-and-trailing-slash": plain(path="//metadata/identity/oauth2/token/"),
    "path-metadata-capitalised": plain(path="/Metadata/identity/oauth2/token"),
    "path-metadata-upper-case": plain(path="/METADATA/identity/oauth2/token"),
    "path-trailing-slash": plain(path="/metadata/identity/oauth2/token/"),
    "plain": plain(),
    "resource-application-id-uri": plain(query="resource=api%3a%2f%2F0c9d"),
    "resource-unescaped": plain(query="resource=https://management.azure.com/"),
    "resource-with-equals-sign": plain(query="resource=a=b"),
    "resource-with-escaped-ampersand": plain(query="resource=a%26client_id%3Db"),
    "resource-with-escaped-space-and-plus": plain(query="resource=a%20b%2Bc"),
    "resource-with-question-mark": plain(query="resource=a?b"),
    "rust-lower-case-header-name": plain(host="host: 169.254.169.254", metadata="metadata: true"),
    "xms_cc": plain(query=f"{QUERY}&xms_cc=cp1"),
}
"""A name that begins with `general-` is left to the general lane; all others are fast-lane material."""

CHUNKED: Final = "Transfer-Encoding: chunked"
TOKEN_REQUEST: Final = disguised(TOKEN)
"""As the body of another request."""

_REFUSED: Final[dict[str, bytes]] = {
    "400-absolute-form-with-user": disguised("http://169.254.169.254\\@x/metadata/identity/oauth2/token"),
    "400-absolute-form": plain(path="http://169.254.169.254/metadata/identity/oauth2/token"),
    "400-api-version-twice": plain(query=f"{QUERY}&api-version=1"),
    "400-asterisk-form": request("*", METADATA, method="OPTIONS"),
    "400-bare-cr-in-field": plain("X-Field: a\rb"),
    "400-bare-lf-in-field": plain("X-Field: a\nX-Other: b"),
    "400-bare-lf": plain().replace(b"\r\n", b"\n"),
    "400-chunk-bare-lf": events(CHUNKED, body=b"2\nab\r\n0\r\n\r\n"),
    "400-chunk-extension": events(CHUNKED, body=b"2;a=b\r\nab\r\n0\r\n\r\n"),
    "400-chunk-longer-than-told": events(CHUNKED, body=b"2\r\nabc\r\n0\r\n\r\n"),
    "400-chunk-size-empty": events(CHUNKED, body=b"\r\n0\r\n\r\n"),
    "400-chunk-size-no-number": events(CHUNKED, body=b"zz\r\nab\r\n0\r\n\r\n"),
    "400-chunk-size-overflow": events(CHUNKED, body=b"fffffffffffffffe\r\nab\r\n0\r\n\r\n"),
    "400-chunk-size-signed": events(CHUNKED, body=b"+2\r\nab\r\n0\r\n\r\n"),
    "400-chunk-size-with-0x": events(CHUNKED, body=b"0x2\r\nab\r\n0\r\n\r\n"),
    "400-chunk-size-with-space": events(CHUNKED, body=b"2 \r\nab\r\n0\r\n\r\n"),
    "400-chunk-trailer": events(CHUNKED, body=b"0\r\nX: y\r\n\r\n"),
    "400-chunked-after-gzip": events("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "400-chunked-and-length": events(CHUNKED, "Content-Length: 4", body=b"0\r\n\r\n" + TOKEN_REQUEST),
    "400-chunked-in-http-1.0": events(CHUNKED, body=b"0\r\n\r\n").replace(b"HTTP/1.1\r\nHost: a", b"HTTP/1.0"),
    "400-chunked-twice-in-one": events("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "400-chunked-twice": events(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "400-chunked-with-vertical-tab": events("Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "400-client-id-twice": plain(query=f"{QUERY}&client_id=a&client_id=a"),
    "400-content-type-twice-in-a-token-request": disguised(
        "/metadata/identity/oauth2/token", "Content-Type: a", "Content-Type: b"
    ),
    "400-content-type-twice": events("Content-Type: a", "Content-Type: b", "Content-Length: 0"),
    "400-control-in-field": plain("X-Field: a\x01b"),
    "400-delete-in-field": plain("X-Field: a\x7fb"),
    "400-empty-query": plain(query=""),
    "400-empty-resource": plain(query="resource=&api-version=2018-02-01"),
    "400-escape-cut-short": plain(query="resource=a%2"),
    "400-escape-not-hex": plain(query="resource=a%zz"),
    "400-expect": plain("Expect: 100-continue"),
    "400-field-name-empty": plain(": x"),
    "400-field-without-colon": plain("X-Field"),
    "400-fragment": plain(query=f"{QUERY}#x"),
    "400-host-port-letters": plain(host="Host: a:8o"),
    "400-host-token-forwarded": request("/host/token/?resource=r", "podns: shop", "podname: a", "X-Forwarded-For: 1"),
    "400-host-token-name-twice": request("/host/token?resource=r", "podns: shop", "podname: a", "podname: b"),
    "400-host-token-no-name-of-a-namespace": request("/host/token?resource=r", "podns: ../x", "podname: a"),
    "400-host-token-no-name-of-a-pod": request("/host/token?resource=r", "podns: shop", "podname: a/b"),
    "400-host-token-without-fields": request("/host/token/?resource=r"),
    "400-host-token-without-name": request("/host/token?resource=r", "podns: shop"),
    "400-host-token-without-resource": request("/host/token/", "podns: shop", "podname: a"),
    "400-host-two-ports": plain(host="Host: a:80:80"),
    "400-host-with-path": plain(host="Host: a/b"),
    "400-host-with-user": plain(host="Host: a@b"),
    "400-http-1.2": plain(version="HTTP/1.2"),
    "400-http-2": plain(version="HTTP/2.0"),
    "400-instance-forwarded": request("/metadata/instance", METADATA, "X-Forwarded-For: 1"),
    "400-instance-two-metadata": request("/metadata/instance", METADATA, METADATA),
    "400-length-and-chunked": plain("Content-Length: 3", CHUNKED, body=b"0\r\n\r\n"),
    "400-length-empty": events("Content-Length:"),
    "400-length-hexadecimal": events("Content-Length: 0x2", body=b"ab"),
    "400-length-list": events("Content-Length: 2, 2", body=b"ab"),
    "400-length-signed": plain("Content-Length: +0"),
    "400-length-twice-alike": events("Content-Length: 2", "Content-Length: 2", body=b"ab"),
    "400-length-twice": plain("Content-Length: 0", "Content-Length: 0"),
    "400-metadata-empty": plain(metadata="Metadata:"),
    "400-metadata-false": plain(metadata="Metadata: false"),
    "400-metadata-list": plain(metadata="Metadata: true, true"),
    "400-metadata-no-break-space": plain(metadata="Metadata: \xc2\xa0true"),
    "400-metadata-truee": plain(metadata="Metadata: truee"),
    "400-metadata-twice": plain("metadata: true"),
    "400-method-lower-case": plain(method="get"),
    "400-no-host": plain(host=None),
    "400-no-metadata-header": plain(metadata=None),
    "400-no-query": plain(query=None),
    "400-no-resource": plain(query="api-version=2018-02-01"),
    "400-no-slash": disguised("metadata/identity/oauth2/token"),
    "400-no-version": plain().replace(b" HTTP/1.1", b""),
    "400-nul-in-field": plain("X-Field: a\x00b"),
    "400-obs-fold": plain("X-Field: a", " b"),
    "400-path-above-the-token": disguised("/x/metadata/identity/oauth2/token"),
    "400-path-away-and-back": request("/metadata/identity/oauth2/token/../../../instance", METADATA),
    "400-path-back-slash": plain(path="/metadata\\identity/oauth2/token"),
    "400-path-below-the-token": disguised("/metadata/identity/oauth2/token/x"),
    "400-path-dot-segment-by-back-slash": disguised("/metadata/instance\\..\\identity/oauth2/token"),
    "400-path-dot-segment-with-parameter": disguised("/metadata/instance/..;/identity/oauth2/token"),
    "400-path-dot-segment": plain(path="/metadata/./identity/oauth2/token"),
    "400-path-escaped-back-slash": disguised("/metadata/identity%5coauth2/token"),
    "400-path-escaped-dot-segment": disguised("/metadata/instance/%2e%2e/identity/oauth2/token"),
    "400-path-escaped-slash": disguised("/metadata%2Fidentity/oauth2/token"),
    "400-path-escaped-twice-dot-segment": disguised("/metadata/instance/%252e%252e/identity/oauth2/token"),
    "400-path-escaped-twice": disguised("/metadata/identity/oauth2/%2574oken"),
    "400-path-escaped": plain(path="/metadata/identity/oauth2/%74oken"),
    "400-path-fragment-escaped": disguised("/metadata/identity/oauth2/token%23"),
    "400-path-full-width": disguised("/metadata/identity/oauth2/%ef%bd%94oken"),
    "400-path-identity-capitalised": plain(path="/metadata/Identity/oauth2/token"),
    "400-path-inner-doubled-slash": plain(path="/metadata//identity/oauth2/token"),
    "400-path-nul": disguised("/metadata/identity/oauth2/token%00"),
    "400-path-other-case-of-oauth2": disguised("/metadata/identity/OAuth2/token"),
    "400-path-over-long-slash": disguised("/metadata/identity%c0%afoauth2/token"),
    "400-path-over-long-utf-8": disguised("/metadata/identity/oauth2/%c1%b4oken"),
    "400-path-parameter": plain(path="/metadata/identity/oauth2/token;x"),
    "400-path-question-mark": request("/metadata/identity/oauth2/token%3Fresource=r", METADATA),
    "400-path-short-name": disguised("/metadata/identi~1/oauth2/token"),
    "400-path-three-leading-slashes": plain(path="///metadata/identity/oauth2/token"),
    "400-path-trailing-dot": disguised("/metadata/identity./oauth2/token"),
    "400-path-two-trailing-slashes": plain(path="/metadata/identity/oauth2/token//"),
    "400-path-u-escape": disguised("/metadata/identity/oauth2/%u0074oken"),
    "400-resource-bad-utf-8": plain(query="resource=%ff"),
    "400-resource-name-capitalised": plain(query="Resource=a"),
    "400-resource-nul": plain(*CURL, query="api-version=2018-02-01&resource=%00https%3A%2F%2Fmanagement.azure.com%2F"),
    "400-resource-twice-escaped": plain(query="resource=a&%72esource=b"),
    "400-resource-twice": plain(query="resource=a&resource=b"),
    "400-semicolon-in-query": plain(
        *CURL, query="api-version=2018-02-01&resource=;https%3A%2F%2Fmanagement.azure.com%2F"
    ),
    "400-space-before-colon": plain(metadata="Metadata : true"),
    "400-tab-after-method": plain().replace(b"GET ", b"GET\t"),
    "400-tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)) + b"\r\n\r\n",
    "400-transfer-encoding-identity": plain("Transfer-Encoding: identity"),
    "400-two-hosts": plain("Host: other"),
    "400-two-resource-ids": plain(query=f"{QUERY}&mi_res_id=a&msi_res_id=b"),
    "400-two-selectors": plain(query=f"{QUERY}&client_id=a&object_id=b"),
    "400-two-spaces-before-target": plain().replace(b"GET ", b"GET  "),
    "400-version-lower-case": plain(version="http/1.1"),
    "400-x-forwarded-for-empty-lower-case": plain("x-forwarded-for:"),
    "400-x-forwarded-for": plain("X-Forwarded-For: 10.0.0.1"),
    "404-attested": request("/metadata/attested/document?api-version=2020-09-01", METADATA),
    "404-chunked-any-case": events("transfer-encoding: CHUNKED", body=b"2\r\nab\r\n0\r\n\r\n"),
    "404-chunked": events(CHUNKED, body=b"2\r\nab\r\n0\r\n\r\n"),
    "404-closing": request("/Metadata/versions.v1/?a=b", METADATA, "Connection: close"),
    "404-getplatformmetadata-post": request(
        "/metadata/identity/getplatformmetadata?cred-api-version=2.0", METADATA, method="POST"
    ),
    "404-getplatformmetadata-without-header": request("/metadata/identity/getplatformmetadata?cred-api-version=2.0"),
    "404-getplatformmetadata": plain(
        path="/metadata/identity/getplatformmetadata", query="cred-api-version=2.0", metadata=None
    ),
    "404-host": request("/host/tokens", METADATA),
    "404-identity-by-instance": request("/metadata/instance/../identity/info", METADATA),
    "404-identity-escaped": request("/metadata/%69dentity/info", METADATA),
    "404-identity-info-delete": request("/metadata/identity/info", method="DELETE"),
    "404-identity-info-forwarded": request("/metadata/identity/info", "X-Forwarded-For: 1"),
    "404-identity-info-two-metadata": request("/metadata/identity/info", METADATA, METADATA),
    "404-identity-info": plain(path="/metadata/identity/info"),
    "404-identity-parameter": request("/metadata/instance;identity/info", METADATA),
    "404-issuecredential-post": request(
        "/metadata/identity/issuecredential?cred-api-version=2.0",
        METADATA,
        "Content-Length: 2",
        method="POST",
        body=b"{}",
    ),
    "404-issuecredential-without-header": request(
        "/metadata/identity/issuecredential", "Content-Length: 0", method="POST"
    ),
    "404-length-with-zeros": events("Content-Length: 0002", body=b"ab"),
    "404-loadbalancer": request("/metadata/loadbalancer?api-version=2020-10-01", METADATA),
    "404-metadata": request("/metadata", METADATA),
    "404-path-one-byte-longer": plain(path="/metadata/elsewhere/oauth2/tokenx"),
    "404-root": request("/", METADATA),
    "404-scheduledevents": request("/metadata/scheduledevents?api-version=2020-07-01", METADATA),
    "404-versions": request("/metadata/versions", METADATA),
    "405-connect-authority-form": request("169.254.169.254:80", METADATA, method="CONNECT"),
    "405-head": plain(method="HEAD"),
    "405-host-token-post": request("/host/token/?resource=r", "podns: shop", "podname: a", method="POST"),
    "405-instance-options": request("/metadata/instance", METADATA, method="OPTIONS"),
    "405-instance-post": request("/metadata/instance?api-version=2021-02-01", METADATA, method="POST"),
    "405-post-with-a-token-request-as-body": disguised(TOKEN, "Content-Length: 84", method="POST", body=TOKEN_REQUEST),
    "405-post-without-length": disguised("/metadata/identity/oauth2/token", method="POST"),
    "405-post": plain("Content-Length: 0", method="POST"),
    "405-put": plain("Content-Length: 0", method="PUT"),
    "405-trace-unknown-path": plain(method="TRACE", path="/elsewhere", query=None),
    "405-unknown-method-instance": plain(path="/metadata/instance", query="api-version=2021-02-01", method="BREW"),
    "405-unknown-method": plain(query=RESOURCE, method="BREW"),
    "413-chunk-too-large": events(CHUNKED, body=b"4001\r\n"),
    "413-length-too-large": events("Content-Length: 16385"),
    "413-length-with-many-digits": events("Content-Length: 99999999999999999999999"),
    "431-head-too-large": plain("X-Field: " + "v" * 17000),
    "431-target-too-long": plain(query="resource=" + "r" * 5000),
    "431-too-many-fields": plain(*(f"X-Field-{number}: v" for number in range(100))),
}
"""Neighbours of those in _ACCEPTED, a byte or a line away. The name begins with the status of the response."""

FAST_REFUSALS = frozenset(
    {
        *("400-no-metadata-header", "400-empty-query", "400-empty-resource", "400-no-query", "400-no-resource"),
        *("400-resource-name-capitalised", "404-attested", "404-getplatformmetadata"),
        *("404-getplatformmetadata-post", "404-getplatformmetadata-without-header", "404-identity-info"),
        "404-issuecredential-without-header",
        *("404-identity-info-delete", "404-loadbalancer", "404-metadata"),
        *("404-path-one-byte-longer", "404-root", "404-scheduledevents", "404-versions"),
        *("405-instance-options", "405-instance-post", "405-post", "405-put"),
        *("404-closing", "405-post-without-length"),
    }
)
"""Refused for their first line, for the missing header or for the missing resource alone."""
ACCEPTED = [Case(name, data) for name, data in _ACCEPTED.items()]
REFUSED = [Case(name, data) for name, data in _REFUSED.items()]
EVERY = ACCEPTED + REFUSED
