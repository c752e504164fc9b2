"""The guarantee of the target's normal form, tested with generated targets. Excluded: legitimate spellings."""

import re
from urllib.parse import unquote, unquote_to_bytes

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nmi.server.target import Action, CanonicalPath, ProxiedPaths, normal, resolve
from tests.examples import examples

EVERYTHING = ProxiedPaths(everything=True)
PLAIN = re.compile(r"/|(?:/[A-Za-z0-9_.-]+)+/?")
WORDS = ["metadata", "identity", "oauth2", "token", "instance", "info", "host", "compute"]


def escaped(text: str, times: int) -> str:
    """Return *text* with every character escaped, repeatedly."""
    for _ in range(times):
        text = "".join(f"%{ord(each):02x}" for each in text)
    return text


LETTERS = st.sampled_from("identyIDENTY")
SEPARATORS = st.sampled_from(
    [
        "/",
        "//",
        "\\",
        "%2f",
        "%2F",
        "%5c",
        "%252f",
        "/./",
        "/../",
        "/%2e%2e/",
        "/..;/",
        "/.;x/",
        ";/",
        ";a=b/",
        "/;",
        "%00/",
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
def test_no_forwarded_path_can_be_read_as_an_identity_path(target: str) -> None:
    found = resolve(target, EVERYTHING)
    if found.action is not Action.PROXY:
        return
    path = found.path
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
    found = resolve(target, EVERYTHING)
    if found.action is Action.PROXY:
        assert normal(found.path) == found.path
        again = resolve(found.path, EVERYTHING)
        assert (again.action, again.path, again.canonical_path) == (Action.PROXY, found.path, found.canonical_path)
        assert found.query == target.partition("?")[2]


@settings(max_examples=examples(200), deadline=None)
@given(TARGETS)
def test_a_token_is_served_only_under_the_few_accepted_spellings(target: str) -> None:
    spelling = re.fullmatch(
        r"//?metadata/identity/oauth2/token/?", target.partition("?")[0].replace("METADATA", "metadata")
    )
    found = resolve(target, EVERYTHING)

    if found.action is Action.TOKEN:
        assert found.canonical_path is CanonicalPath.TOKEN
        assert re.fullmatch(r"//?metadata/identity/oauth2/token/?", target.partition("?")[0], re.IGNORECASE)
        assert "/identity/oauth2/token" in target, "only metadata may be in another case"
    else:
        assert spelling is None


@settings(max_examples=examples(150), deadline=None)
@given(TARGETS, st.sampled_from(["/metadata/versions", "/metadata/a/b"]))
def test_with_an_allow_list_nothing_else_is_forwarded(target: str, allowed: str) -> None:
    found = resolve(target, ProxiedPaths((allowed,)))

    if found.action is Action.PROXY:
        path = f"{found.path.lower()}/"
        assert path.startswith((f"{allowed}/", "/metadata/instance/"))


def test_no_path_of_nmi_itself_is_ever_forwarded() -> None:
    for path in ("/host", "/host/", "/host/x", "/HOST/x", "/x/../host/tokens", "/%68ost/x", "/host/token/x"):
        assert resolve(path, EVERYTHING).action is Action.REFUSE_UNKNOWN
    assert resolve("/hosts", EVERYTHING).action is Action.PROXY
