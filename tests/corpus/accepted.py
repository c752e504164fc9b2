"""Requests that a pod with a granted identity gets its token for.

A name that begins with `general-` is left to the general lane; all others are fast-lane material.
"""

from typing import Final

from tests.corpus.builders import QUERY, RESOURCE, plain

CLIENT_ID: Final = "5f8D0c1E-2b7a-4c55-9a34-7f9e2d1c0b6a"
RESOURCE_ID: Final = (
    "%2Fsubscriptions%2F8a2f6f0e-7d0c-4a44-9d6e-0a3c1f7b52d4%2FresourceGroups%2Fteam"
    "-a%2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2FReader"
)

REQUESTS: Final[dict[str, bytes]] = {
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
    "curl": plain("User-Agent: curl/8.5.0", "Accept: */*"),
    "empty-field-value": plain("X-Empty:"),
    "escaped-semicolon": plain(
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        query="api-version=2018-02-01&resource=%3Bhttps%3A%2F%2Fmanagement.azure.com%2F",
    ),
    "general-bypass-cache": plain(query=f"{QUERY}&bypass_cache=true"),
    "general-connection-list": plain("Connection: keep-alive, close"),
    "general-doubled-ampersand": plain(
        "User-Agent: curl/8.5.0", "Accept: */*", query=f"api-version=2018-02-01&&{RESOURCE}"
    ),
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
