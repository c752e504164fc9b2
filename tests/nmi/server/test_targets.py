"""The destinations of targets.

Excluded: the answers (test_refusals_in_the_specified_order), requests to IMDS (test_passthrough).
"""

import pytest

from nmi.server.target import Action, CanonicalPath, ProxiedPaths, resolve

NOTHING = ProxiedPaths()
EVERYTHING = ProxiedPaths(everything=True)


@pytest.mark.parametrize(
    "path",
    [
        "/metadata/identity/oauth2/token",
        "/metadata/identity/oauth2/token/",
        "//metadata/identity/oauth2/token",
        "//Metadata/identity/oauth2/token/",
        "/METADATA/identity/oauth2/token",
    ],
)
def test_a_spelling_that_sdks_use_is_the_token_path(path: str) -> None:
    for target in (path, f"{path}?", f"{path}?resource=x"):
        assert resolve(target, NOTHING).action is Action.TOKEN


@pytest.mark.parametrize(
    "path",
    [
        "///metadata/identity/oauth2/token",
        "/metadata/identity/oauth2/token//",
        "/metadata//identity/oauth2/token",
        "/metadata/identity/oauth2/Token",
        "/metadata/Identity/oauth2/token",
        "/metadata/identity/oauth2/%74oken",
        "/metadata/identity/oauth2/%2574oken",
        "/metadata/identity/oauth2/%252574oken",
        "/metadata%2Fidentity/oauth2/token",
        "/metadata/./identity/oauth2/token",
        "/metadata/instance/../identity/oauth2/token",
        "/metadata/instance/%2e%2e/identity/oauth2/token",
        "/metadata/instance/..%2fidentity/oauth2/token",
        "/metadata/instance/..;x/identity/oauth2/token",
        "/../metadata/identity/oauth2/token",
        "/x/../metadata/identity/oauth2/token",
        "/metadata\\identity\\oauth2\\token",
        "/metadata/identity%5coauth2/token",
        "\\metadata/identity/oauth2/token",
        "/metadata;a=b/identity;c/oauth2/token",
        "/metadata/identity/oauth2/token;x",
        "/metadata/identity/oauth2/token%00",
        "/metadata/identity/oauth2/token%3Fresource=x",
        "/metadata/identity/oauth2/token%23",
        "/metadata/identity/oauth2/token.",
        "/metadata/identity./oauth2/token",
        "/metadata/identity/oauth2/token%20",
        "/metadata/identity/oauth2/%u0074oken",
        "/metadata/identity/oauth2/%c1%b4oken",  # over-long UTF-8 of "t"
        "/metadata/identity%c0%afoauth2/token",  # over-long UTF-8 of "/"
        "/metadata/identity/oauth2/%ef%bd%94oken",  # full-width t
        "/metadata/identity/oauth2/to%e2%84%aaen",  # Kelvin sign
        "/metadata/%c4%b1dentity/oauth2/token",  # i without a dot
        "/metadata/%d1%96dentity/oauth2/token",  # Cyrillic i
        "/m%d0%b5tadata/identity/oauth2/token",  # Cyrillic e
        "/metadata/identity/oauth2/to%e2%80%8bken",  # zero-width space
        "/metadata%e2%88%95identity/oauth2/token",  # division slash
        "/metadata%ef%bc%8fidentity/oauth2/token",  # full-width solidus
        "/metadata/identity/oauth2/token%e2%80%a5/",  # two dot leader
        "/%6d%65%74%61%64%61%74%61/%69%64%65%6e%74%69%74%79/oauth2/token",
        "/metadata/identity/oauth2/token/extra",
        "/x/metadata/identity/oauth2/token",
        "/metadata-identity-oauth2-token",
        "http://169.254.169.254/metadata/identity/oauth2/token",
        "HTTP://x/metadata/identity/oauth2/token",
        "http://x\\@y/metadata/identity/oauth2/token",
        "metadata/identity/oauth2/token",
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
    found = resolve(path, EVERYTHING)

    assert found.action in {Action.REFUSE_UNKNOWN, Action.REFUSE_DISGUISE}
    if "tokens" not in path:
        assert found.canonical_path is CanonicalPath.IDENTITY


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
    found = resolve(target, NOTHING)

    assert (found.action, found.canonical_path, found.path) == (Action.PROXY, CanonicalPath.INSTANCE, path)


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
