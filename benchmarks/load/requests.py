"""Requests of the load: token requests in the form of each SDK, and one that NMI forwards to IMDS. Pure.

Recorded byte for byte from the applications of tests/system/sdks, for the pod's only identity; the kernel in the user
agents is that of an Azure node. MSAL.NET's request follows its source, since .NET was not available for the recording.
A request id that an SDK changes in each request changes here too.
"""

from typing import Final

from benchmarks.load.generator import Request

TARGET: Final = "/metadata/identity/oauth2/token?api-version=2018-02-01"
HOST: Final = "Host: 169.254.169.254"
METADATA: Final = "Metadata: true"
ANY: Final = "Accept: */*"
ALIVE: Final = "Connection: keep-alive"
KERNEL: Final = "6.8.0-1030-azure"
RESOURCE: Final = "&resource=https%3A%2F%2Fmanagement.azure.com"
UUID: Final = "019da7c8-fe31-412d-bd47-0546a5ebce2e"
ID: Final = f"x-ms-client-request-id: {UUID}"


def plain() -> Request:
    """The shortest complete request: 218 bytes, the same each time."""
    agent = "User-Agent: curl/8.5.0"
    return _request(f"{TARGET}{RESOURCE}%2F", HOST, METADATA, agent, ANY, ALIVE)


def azure_identity_python() -> Request:
    """azure-identity 1.27.0, which uses MSAL with another HTTP pipeline. It does not escape the resource."""
    return _request(
        f"{TARGET}&resource=https://management.azure.com",
        HOST,
        f"User-Agent: azsdk-python-identity/1.27.0 Python/3.11.7 (Linux-{KERNEL}-x86_64-with-glibc2.36)",
        "Accept-Encoding: gzip, deflate",
        ANY,
        ALIVE,
        METADATA,
        "x-client-SKU: MSAL.Python",
        "x-client-Ver: 1.39.0",
        ID,
    )


def msal_python() -> Request:
    """msal 1.39.0 over requests."""
    return _request(
        f"{TARGET}{RESOURCE}",
        HOST,
        "User-Agent: python-requests/2.34.2",
        "Accept-Encoding: gzip, deflate",
        ANY,
        ALIVE,
        METADATA,
        "x-client-SKU: MSAL.Python",
        "x-client-Ver: 1.39.0",
        ID,
    )


def azidentity_go() -> Request:
    """azidentity 1.15.0. Go sorts the parameters of a query and capitalises field names."""
    return _request(
        f"{TARGET}{RESOURCE}",
        HOST,
        "User-Agent: azsdk-go-azidentity/v1.15.0 (go1.26.8; linux)",
        METADATA,
        "X-Client-Sku: MSAL.Go",
        "X-Client-Ver: 1.10.1",
        f"X-Ms-Client-Request-Id: {UUID}",
        "Accept-Encoding: gzip",
    )


def azure_identity_javascript() -> Request:
    """@azure/identity 4.14.1."""
    return _request(
        f"{TARGET}{RESOURCE}",
        METADATA,
        "x-client-SKU: msal.js.node",
        "x-client-VER: 7.2.3",
        ID,
        "Content-Type: application/x-www-form-urlencoded;charset=utf-8",
        "Accept-Encoding: gzip,deflate",
        f"User-Agent: azsdk-js-identity/4.14.1 core-rest-pipeline/1.25.1 Node/24.19.0 (Linux {KERNEL}; x64)",
        HOST,
        ALIVE,
    )


def azure_identity_java() -> Request:
    """azure-identity 1.18.2, which sends no id."""
    return _request(
        f"{TARGET}{RESOURCE}",
        HOST.lower(),
        ANY.lower(),
        METADATA,
        f"User-Agent: azsdk-java-azure-identity/1.18.2 (17.0.15; Linux; {KERNEL})",
    )


def azure_identity_rust() -> Request:
    """azure_identity 1.0.0, with another api-version. The order of its fields differs between runs."""
    return _request(
        f"{TARGET.replace('2018-02-01', '2019-08-01')}{RESOURCE}",
        "user-agent: azsdk-rust-identity/1.0.0 (1.95.0; linux; x86_64)",
        METADATA.lower(),
        ID,
        ANY.lower(),
        "accept-encoding: gzip,deflate",
        HOST.lower(),
    )


def msal_dotnet() -> Request:
    """MSAL.NET 4.79.2."""
    product = ("x-client-SKU: MSAL.NetCore", "x-client-Ver: 4.79.2")
    return _request(f"{TARGET}{RESOURCE}", HOST, METADATA, *product, ID)


def sdks() -> tuple[Request, ...]:
    """One of each SDK."""
    return (
        azure_identity_python(),
        msal_python(),
        azidentity_go(),
        azure_identity_javascript(),
        azure_identity_java(),
        azure_identity_rust(),
        msal_dotnet(),
    )


def instance_metadata() -> Request:
    """A request for instance metadata, which NMI answers from its cache."""
    return _request("/metadata/instance?api-version=2021-02-01", HOST, "User-Agent: curl/8.5.0", ANY, METADATA)


def uncached_metadata() -> Request:
    """A request for instance metadata with another query each time, which NMI forwards to IMDS."""
    target = f"/metadata/instance?api-version=2021-02-01&id={UUID}"
    return _request(target, HOST, "User-Agent: curl/8.5.0", ANY, METADATA)


def without_header() -> Request:
    """The plain request without `Metadata: true`, as a probe sends it."""
    return Request(plain().text.replace(f"{METADATA}\r\n".encode(), b""), ())


def without_resource() -> Request:
    """The plain request without a resource, as a probe sends it."""
    return Request(plain().text.replace(f"{RESOURCE}%2F".encode(), b""), ())


def unknown_path() -> Request:
    """The plain request for a path of another cloud."""
    return Request(plain().text.replace(TARGET.encode(), b"/latest/meta-data/iam/?a=b"), ())


def _request(target: str, *fields: str) -> Request:
    text = "\r\n".join((f"GET {target} HTTP/1.1", *fields, "", "")).encode()
    at = text.find(UUID.encode())
    return Request(text, () if at < 0 else (at + UUID.index("-bd47-") + 1,))
