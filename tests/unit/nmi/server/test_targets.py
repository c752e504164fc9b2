"""The destinations of targets: the forms that are served, disguises of identity paths, numeric forms of addresses.

The methods and bodies that are forwarded to IMDS by the operator's settings. The guarantee of the normal form is tested
with generated targets. Excluded: disguises that tests/support/corpus has, the responses (test_refusals), requests to
IMDS (test_passthrough), and the rules that redirect packets, which see an address and never its text
(tests/system/local/nmi/node).
"""

import re
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmi.server.passthrough import PROXIED, READING
from nmi.server.policy import ServerPolicy
from nmi.server.target import Action, CanonicalPath, ProxiedPaths, normal, resolve
from tests.support.examples import examples
from tests.support.nmi.server.fakes import TARGET, TOKEN_PATH, ServerUnderTest, request_bytes

NOTHING = ProxiedPaths()
EVERYTHING = ProxiedPaths(everything=True)


@pytest.mark.parametrize(
    "path",
    [
        "/metadata/identity/oauth2/Token",
        "/metadata/identity/oauth2/%252574oken",
        "/metadata/instance/../identity/oauth2/token",
        "/metadata/instance/..%2fidentity/oauth2/token",
        "/../metadata/identity/oauth2/token",
        "/x/../metadata/identity/oauth2/token",
        "\\metadata/identity/oauth2/token",
        "/metadata;a=b/identity;c/oauth2/token",
        "/metadata/identity/oauth2/token.",
        "/metadata/identity/oauth2/token%20",
        "/metadata/identity/oauth2/to%e2%84%aaen",  # Kelvin sign
        "/metadata/%d1%96dentity/oauth2/token",  # Cyrillic i
        "/metadata/identity/oauth2/to%e2%80%8bken",  # zero-width space
        "/metadata%e2%88%95identity/oauth2/token",  # division slash
        "/%6d%65%74%61%64%61%74%61/%69%64%65%6e%74%69%74%79/oauth2/token",
        "/metadata-identity-oauth2-token",
        "HTTP://x/metadata/identity/oauth2/token",
        "*",
        "",
        "/metadata/identity/oauth2/token%",
        "/metadata/identity/oauth2/token%2",
        "/%25252525252525256detadata",
    ],
)
def test_a_disguised_token_path_is_refused(path: str) -> None:
    assert resolve(f"{path}?resource=x", EVERYTHING).action is Action.REFUSE_DISGUISE


@pytest.mark.parametrize("start", ["/", "/metadata/instance/"])
def test_a_path_with_too_many_escapes_or_bytes_is_refused_and_one_at_the_limit_is_not(start: str) -> None:
    for at_the_limit, more in ((start + "%61" * 16, "%61"), (start.ljust(257, "a"), "a")):
        assert resolve(at_the_limit, EVERYTHING).action is Action.PROXY
        assert resolve(at_the_limit + more, EVERYTHING).action is Action.REFUSE_DISGUISE


@pytest.mark.parametrize("path", ["/metadata/instance/%2561", "/%2525252f", "/a%25", "/%%32%66"])
def test_a_path_that_is_escaped_twice_is_refused_and_one_that_is_escaped_once_is_not(path: str) -> None:
    assert resolve(path, EVERYTHING).action is Action.REFUSE_DISGUISE
    assert resolve("/metadata/instance/%61", EVERYTHING).path == "/metadata/instance/a"


@pytest.mark.parametrize(
    "path",
    [
        "/metadata/identity",
        "/metadata/identity/",
        "/metadata/identity/info",
        "/metadata/identity/getplatformmetadata",
        "/metadata/identity/issuecredential",
        "/metadata/identity/getPlatformMetadata/",
        "/metadata/identity/issue%43redential;x",
        "/metadata/identity%2FIssueCredential",
        "/metadata/identity\\getplatformmetadata",
        "/metadata/instance/..%2Fidentity/./issuecredential",
        "/metadata/identity/oauth2",
        "/metadata/identity/oauth2/tokens/../authorize",
        "/METADATA/IDENTITY/info",
        "/metadata/instance/../identity/info",
        "/metadata/instance/%2e%2e/identity/info",
        "/metadata/%69dentity/info",
        "/metadata//identity/info",
        "/metadata/identity;x/info",
        "/metadata/instance;identity/info",
        "http://host/metadata/identity/info",
        "/x/identity/y",
    ],
)
def test_no_identity_path_is_ever_forwarded(path: str) -> None:
    destination = resolve(path, EVERYTHING)

    assert destination.action in {Action.REFUSE_UNKNOWN, Action.REFUSE_DISGUISE}
    if "tokens" not in path:
        assert destination.canonical_path is CanonicalPath.IDENTITY


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/metadata/instance", "/metadata/instance"),
        ("/Metadata/instance/?api-version=1", "/metadata/instance/"),
        ("/metadata/instance/compute/vmId", "/metadata/instance/compute/vmId"),
        ("//metadata//instance/./network/%69nterface", "/metadata/instance/network/interface"),
        ("http://169.254.169.254/metadata/instance?a=b", "/metadata/instance"),
        ("/metadata/instance/compute;x=y/name", "/metadata/instance/compute/name"),
    ],
)
def test_instance_metadata_is_forwarded_in_its_normal_form(target: str, path: str) -> None:
    destination = resolve(target, NOTHING)

    assert (destination.action, destination.canonical_path, destination.path) == (
        Action.PROXY,
        CanonicalPath.INSTANCE,
        path,
    )


@pytest.mark.parametrize(
    "path", ["/metadata/versions", "/metadata/attested/document", "/metadata/instancefoo", "/metadata", "/", "/latest"]
)
def test_another_path_is_forwarded_only_with_allow_all(path: str) -> None:
    assert resolve(path, NOTHING).action is Action.REFUSE_UNKNOWN
    assert resolve(path, EVERYTHING).action is Action.PROXY


def test_an_allowed_prefix_allows_only_the_paths_below_it() -> None:
    proxied_paths = ProxiedPaths(("/metadata/scheduledevents",))

    assert resolve("/metadata/scheduledevents?x=y", proxied_paths).action is Action.PROXY
    assert resolve("/metadata/ScheduledEvents/a", proxied_paths).action is Action.PROXY
    assert resolve("/metadata/scheduledeventsandmore", proxied_paths).action is Action.REFUSE_UNKNOWN
    assert resolve("/metadata/scheduledevents", ProxiedPaths(("/Metadata/ScheduledEvents/",))).action is Action.PROXY
    assert resolve("/metadata/scheduledevents/../versions", proxied_paths).action is Action.REFUSE_UNKNOWN


@pytest.mark.parametrize(
    "prefix",
    ["/", "/metadata", "/metadata/", "/metadata/identity", "/metadata/x/../identity", "/foo/bar", "metadata/x", ""],
)
def test_a_prefix_that_would_allow_too_much_is_rejected(prefix: str) -> None:
    with pytest.raises(ValueError, match="cannot be proxied"):
        ProxiedPaths((prefix,))


@pytest.mark.parametrize("path", ["/host/token", "/host/token/", "/Host/Token"])
def test_the_host_token_path_has_its_own_route(path: str) -> None:
    assert resolve(path, EVERYTHING).action is Action.HOST_TOKEN


def test_no_path_of_nmi_itself_is_ever_forwarded() -> None:
    for path in ("/host", "/host/", "/host/x", "/HOST/x", "/x/../host/tokens", "/%68ost/x", "/host/token/x"):
        assert resolve(path, EVERYTHING).action is Action.REFUSE_UNKNOWN
    assert resolve("/hosts", EVERYTHING).action is Action.PROXY


FORMS = [
    "169.254.169.254",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
]


@pytest.mark.parametrize("host", FORMS)
async def test_the_form_in_host_has_no_effect(host: str) -> None:
    expected = await ServerUnderTest().ask(request_bytes())
    for spelled in (host, f"{host}:80"):
        data = request_bytes().replace(b"Host: 169.254.169.254", f"Host: {spelled}".encode())
        reply = await ServerUnderTest().ask(data)
        assert (reply.status, reply.json["access_token"]) == (200, expected.json["access_token"])


@pytest.mark.parametrize("host", FORMS)
def test_an_absolute_target_is_never_the_token_path_and_is_forwarded_by_its_path_alone(host: str) -> None:
    assert resolve(f"http://{host}{TARGET}", EVERYTHING).action is Action.REFUSE_DISGUISE
    destination = resolve(f"http://{host}/metadata/instance", EVERYTHING)
    assert (destination.action, destination.path) == (Action.PROXY, "/metadata/instance")


PLAIN = re.compile(r"/|(?:/[A-Za-z0-9_.-]+)+/?")
WORDS = ["metadata", "identity", "oauth2", "token", "instance", "info", "host", "compute"]


def escaped(text: str, times: int) -> str:
    """Return *text* with every character escaped, repeatedly."""
    for _ in range(times):
        text = "".join(f"%{ord(character):02x}" for character in text)
    return text


LETTERS = st.sampled_from("identyIDENTY")
SEPARATORS = st.sampled_from(
    [
        *("/", "//", "\\", "%2f", "%2F", "%5c", "%252f", "/./", "/../", "/%2e%2e/", "/..;/", "/.;x/"),
        *(";/", ";a=b/", "/;", "%00/"),
    ]
)
CASED = st.sampled_from(
    [*WORDS, *map(str.upper, WORDS), *map(str.title, WORDS), *map(str.swapcase, map(str.title, WORDS))]
)
PIECES = st.one_of(
    CASED,
    SEPARATORS,
    LETTERS,
    st.tuples(CASED | LETTERS, st.integers(1, 3)).map(lambda pair: escaped(*pair)),
    st.sampled_from(
        ["..", ".", "~1", "~", "*", "@", ":", "?", "&", "=", "+", "%", "%2", "%25", "%u0069", "%c1%a9", "%e2%85%b0"]
    ),
    st.sampled_from(["\u0130", "\u017f", "\uff49", "%C4%B1", "%ff", "%c0%ae", "%0d%0a", "%20", "%09", "\t", "-", "_"]),
)
STARTS = st.sampled_from(
    ["", "/", "//", "\\", "http://h", "HTTPS://h:1/", "http://a@b\\", "h:80", "*", "/metadata/", "?", "."]
)
TARGETS = st.tuples(STARTS, st.lists(PIECES, max_size=16).map("".join)).map("".join)


@settings(max_examples=examples(400), deadline=None)
@given(TARGETS)
@example("/metadata/instance/%25%32%65%25%32%65/%25%36%39dentity/info")
@example("/metadata/iden/../identi~1/token")
@example("/metadata/instance?/../identity")
@example("/metadata/ident%00ity/info")
@example("/metadata/IDENT\u0130TY")
@example("/metadata/instance/..;/identity/x")
@example("/metadata/identi~1/info")
@example("/latest/identity/info")
def test_no_forwarded_path_can_be_read_as_an_identity_path(target: str) -> None:
    destination = resolve(target, EVERYTHING)
    if destination.action is not Action.PROXY:
        return
    path = destination.path
    for _ in range(8):  # any number of further decodings, since there is nothing left to decode
        assert "identity" not in path.lower().casefold()
        assert not path.lower().startswith("/host/")
        assert unquote(path) == path == unquote_to_bytes(path).decode()
        path = unquote(path)
    assert PLAIN.fullmatch(path)
    assert not {"", ".", ".."} & set(path.strip("/").split("/")) or path == "/"


@settings(max_examples=examples(200), deadline=None)
@given(TARGETS)
@example("/a/..")
@example("/a/;/")
@example("/./")
def test_normalisation_is_idempotent_and_its_result_is_forwarded(target: str) -> None:
    form = normal(target.partition("?")[0])
    if form is not None:
        assert normal(form) == form
    destination = resolve(target, EVERYTHING)
    if destination.action is Action.PROXY:
        assert normal(destination.path) == destination.path
        again = resolve(destination.path, EVERYTHING)
        assert (again.action, again.path, again.canonical_path) == (
            Action.PROXY,
            destination.path,
            destination.canonical_path,
        )
        assert destination.query == target.partition("?")[2]


@settings(max_examples=examples(200), deadline=None)
@given(TARGETS)
@example("/metadata/identity/oauth2/token?resource=x")
@example("/metadata/identity/oauth2/token/")
@example("//metadata/identity/oauth2/token?")
@example("//Metadata/identity/oauth2/token/?resource=x")
@example("/METADATA/identity/oauth2/token")
def test_a_token_is_served_only_under_the_few_accepted_spellings(target: str) -> None:
    """SDKs use them all."""
    accepted = re.fullmatch("//?(?i:metadata)/identity/oauth2/token/?", target.partition("?")[0])
    destination = resolve(target, EVERYTHING)
    assert (destination.action is Action.TOKEN) == (accepted is not None)
    assert (destination.canonical_path is CanonicalPath.TOKEN) == (accepted is not None)


@settings(max_examples=examples(150), deadline=None)
@given(TARGETS, st.sampled_from(["/metadata/versions", "/metadata/a/b"]))
def test_with_an_allow_list_nothing_else_is_forwarded(target: str, allowed: str) -> None:
    destination = resolve(target, ProxiedPaths((allowed,)))

    if destination.action is Action.PROXY:
        path = f"{destination.path.lower()}/"
        assert path.startswith((f"{allowed}/", "/metadata/instance/"))


ALLOWED = ServerPolicy(proxied_paths=ProxiedPaths(("/metadata/scheduledevents",)))
ALL_PATHS = ServerPolicy(proxied_paths=EVERYTHING)


async def status(policy: ServerPolicy, method: str, path: str) -> int:
    server = ServerUnderTest(policy)
    reply = await server.ask(request_bytes(path, method=method), heads_only=method == "HEAD")
    assert len(server.proxy.forwarded) == (reply.status == 200)
    return reply.status


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_instance_metadata_is_read_only_an_allowed_path_accepts_writes_and_allow_all_accepts_any_method(
    method: str,
) -> None:
    assert await status(ServerPolicy(), method, "/metadata/instance") == (200 if method in READING else 405)
    assert await status(ALLOWED, method, "/metadata/instance") == (200 if method in READING else 405)
    assert await status(ALLOWED, method, "/metadata/scheduledevents") == (200 if method in PROXIED else 405)
    for path in ("/metadata/instance", "/metadata/scheduledevents", "/other"):
        assert await status(ALL_PATHS, method, path) == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("CONNECT", path) for path in ("/metadata/instance", TOKEN_PATH, "/elsewhere", "*")),
        *(("CONNECT", f"{host}:80") for host in FORMS),
        *(("TRACE", path) for path in ("/metadata/instance", TOKEN_PATH, "/metadata/identity/info", "/elsewhere", "*")),
    ],
)
async def test_connect_and_trace_are_refused_for_every_target(method: str, path: str) -> None:
    for policy in (ServerPolicy(), ALLOWED, ALL_PATHS):
        assert await status(policy, method, path) == 405


@pytest.mark.parametrize("method", ["BREW", "MKCOL", "M-SEARCH", "PRI", "DESCRIBE", "UPDATEREDIRECT"])
@pytest.mark.parametrize("path", ["/metadata/instance", TOKEN_PATH])
async def test_an_unknown_method_is_refused_and_the_connection_continues(
    server: ServerUnderTest, method: str, path: str
) -> None:
    body = request_bytes(path, method=method, headers=("Content-Length: 3", "Metadata: true"), body=b"abc")
    for request in (request_bytes(path, method=method), body, request_bytes()):
        server.lane.data_received(request)
        await server.settle()
    received = server.replies()
    assert [reply.status for reply in received] == [405, 405, 200]
    assert "GET" in received[0].headers["allow"]
    assert server.proxy.forwarded == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_with_allow_all_identity_paths_and_nmis_own_paths_are_still_not_forwarded(method: str) -> None:
    identity_paths = ("info", "issuecredential", "IssueCredential/", "get%50latformMetadata?cred-api-version=2.0")
    for path in (*(f"/metadata/identity/{path}" for path in identity_paths), "/host/x", "/host"):
        assert await status(ALL_PATHS, method, path) == 404


async def test_blocking_instance_metadata_takes_precedence_over_allow_all() -> None:
    policy = ServerPolicy(proxied_paths=EVERYTHING, block_instance_metadata=True)
    assert await status(policy, "GET", "/metadata/instance") == 403
    assert await status(policy, "GET", "/metadata/./Instance/compute") == 403
    assert await status(policy, "GET", "/metadata/versions") == 200
