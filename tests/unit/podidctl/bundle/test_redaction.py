"""What an archive for support contains of a customer's names and identifiers: nothing."""

import json
import string
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidctl.bundle.redaction import _TOKEN, KEPT_ADDRESSES, KEPT_NAMES, LABEL, NAMESPACE, Redaction

UUID: Final = "60c9b1e2-1111-2222-3333-444455556666"
NAMES: Final = st.text(string.ascii_lowercase + string.digits + "-.", min_size=3, max_size=30).filter(
    lambda name: name[0].isalnum() and name[-1].isalnum() and name not in KEPT_NAMES
)
AROUND: Final = st.sampled_from(["", " ", "/", '"', "'", "=", ":", ",", "(", ")", "\\n", "[", "…", "\t", "ü", "🙂"])


@given(name=NAMES, before=AROUND, after=AROUND)
def test_a_known_name_never_remains(name: str, before: str, after: str) -> None:
    text = Redaction([("pod", name)]).text(f"a pod{before or ' '}{name}{after}")
    assert "pod-1" in text
    assert name not in text or name in "a pod-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pod=team-a/gone", "pod=namespace-1/object-1"),
        ("system:serviceaccount:team-a:builder", "system:serviceaccount:namespace-1:object-1"),
        ("default/gone", "default/object-1"),
        ("web.team-a.svc", "web.namespace-1.svc"),
        (UUID.upper(), "00000000-0000-0000-0000-000000000001"),
        (f"id_{UUID}.x", "id_00000000-0000-0000-0000-000000000001.x"),
        (f"{UUID} 60c9…6666", "00000000-0000-0000-0000-000000000001 0000…0001"),
        ("abcd…wxyz", "client-id-1"),
        ("10.1.2.3:80 from 10.1.2.3", "address-1:80 from address-1"),
        ("fe80::1", "address-1"),
        ("https://v.vault.azure.net/", "https://host-1.vault.azure.net/"),
        ("https://a.b.blob.core.windows.net", "https://host-1.blob.core.windows.net"),
        ("https://api.example.org:8080/x", "https://host-1:8080/x"),
        ("https://10.0.0.1:6443", "https://address-1:6443"),
        ("http://user:p@ss@proxy.example.org:3128", "http://<redacted>@host-1:3128"),
        ("ann@example.org wrote", "mail-1 wrote"),
        ("Bearer abcdefgh.ijkl", "Bearer <redacted>"),
        (rf"{UUID} 60c9\u20266666", r"00000000-0000-0000-0000-000000000001 0000\u20260001"),
        (UUID.replace("-", ""), "00000000000000000000000000000001"),
        ("connect to proxy.contoso.example:3128", "connect to host-1:3128"),
        ("status.contoso.example, data.contoso.example", "host-1, host-2"),
        ("tenant contoso.onmicrosoft.com.", "tenant host-1."),
        ("resource=https%3A%2F%2FContoso.vault.azure.net%2F", "resource=https%3A%2F%2Fhost-1.vault.azure.net%2F"),
        ("from ::ffff:10.1.2.3", "from address-1"),
        ("10.1.2.3-10.1.2.9", "address-1-address-2"),
        (r"ACME\team-a", r"ACME\namespace-1"),
        (r"a\nteam-a\tTEAM-A", r"a\nnamespace-1\tnamespace-1"),
        (r"line\nann@example.org", r"line\nmail-1"),
        ("%2Fteam-a%2F", "%2Fnamespace-1%2F"),
        ('{"pod":"team-a/identity"}', '{"pod":"namespace-1/object-1"}'),
    ],
)
def test_identifiers_become_numbers(text: str, expected: str) -> None:
    assert Redaction([(NAMESPACE, "team-a")]).text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *sorted(KEPT_ADDRESSES),
        *("2026-12-01T12:34:56.123Z", "at 12:34:56", "nmi.server.decisions", "https://management.azure.com/"),
        *(
            "/etc/default/kubelet",
            "https://vault.azure.net",
            "aadpodidentity.k8s.io",
            "default/nmi",
            "default/aad-pod-identity-mic",
            "AADSTS700016",
            "v1.2.3",
            *("registry.k8s.io/x", "spec.nodeName", "nmi.metadataCache", "docs/data-planes.md", "decisions.py:12"),
            *(
                "Microsoft.ManagedIdentity",
                "coordination.k8s.io",
                "12:34:56.123456",
                "aiohttp.client",
                "federated.identityBindings.tokenProxy",
            ),
            "1.5",
        ),
    ],
)
def test_what_names_no_customer_remains(text: str) -> None:
    assert Redaction([(NAMESPACE, "team-a")]).text(text) == text


def test_a_known_name_after_a_backslash_is_replaced_although_it_begins_like_an_escape() -> None:
    redaction = Redaction([("name", "nginx"), ("name", "web")])
    assert redaction.text(r"ACME\nginx, ACME\web, a\nweb") == r"ACME\name-1, ACME\name-2, a\nname-2"


def test_names_rewrite_no_field_names() -> None:
    redaction = Redaction([("name", name) for name in ("metadata", "pod", "spec")])
    assert redaction.value({"metadata": {"spec": 1}}) == {"metadata": {"spec": 1}}
    assert redaction.text('pod="pod" {"pod":"pod"}') == 'pod="name-2" {"pod":"name-2"}'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"client_secret": "hunter2", "id": "x"}, {"client_secret": "<redacted>", "id": "x"}),
        (["--client-secret", "hunter2", "x"], ["--client-secret", "<redacted>", "x"]),
        (["--client-secret=hunter2", "x"], ["--client-secret=<redacted>", "x"]),
        ({"env": [{"name": "DB", "value": "hunter2"}]}, {"env": [{"name": "DB", "value": "<redacted>"}]}),
        (
            {"env": [{"name": "CLOUD", "value": "x"}, {"name": "A"}]},
            {"env": [{"name": "CLOUD", "value": "x"}, {"name": "A"}]},
        ),
        ({"labels": {"app": "Pay", "component": "nmi"}}, {"labels": {"app": "label-1", "component": "nmi"}}),
        ({"labels": {"kubernetes.io/os": "linux"}}, {"labels": {"kubernetes.io/os": "linux"}}),
        ({"podLabels": {"contoso.example/a": "pay"}}, {"podLabels": {"host-1/a": "label-1"}}),
        ({"tolerations": [{"key": "k", "value": "pay"}]}, {"tolerations": [{"key": "k", "value": "label-1"}]}),
        ("its label is app=pay, pay", "its label is app=label-1, pay"),
    ],
)
def test_fields_decide_what_is_private(value: object, expected: object) -> None:
    assert Redaction([(LABEL, "pay")]).value(value) == expected


RUNS: Final = ("_", ".", "-", "+", "a", "0", "a.", "0.", "a-", "_-", "1.1.1.1")
UNITS: Final = (
    "%",
    "%2",
    "@",
    "://",
    ":",
    "=",
    "\\",
    r"\n",
    "a@",
    "a ",
    "0:",
    "a%",
    "sig=",
    "…",
    "abcd…",
    "://a:",
)


@pytest.mark.parametrize("unit", RUNS)
def test_the_search_never_begins_again_within_a_run(unit: str) -> None:
    """Otherwise the time would be quadratic: each start reads to the end of the run."""
    text = unit * (1_000_000 // len(unit))
    assert [match.span() for match in _TOKEN.finditer(text)] == [(0, len(text))]
    Redaction([("name", "web")]).text(text)


@pytest.mark.parametrize("unit", UNITS)
def test_other_characters_end_a_search_soon(unit: str) -> None:
    """Quadratic time would be minutes."""
    Redaction([("name", "web")]).text(unit * (100_000 // len(unit)))


def test_one_text_has_one_replacement_in_all_values() -> None:
    redaction = Redaction([("name", "web")])
    value = redaction.value({"a": ["WEB", "web", f"/subscriptions/{UUID}", 1, None], "b": {"c": f"web/{UUID}"}})
    assert json.dumps(value).count("name-1") == 3
    assert json.dumps(value).count("00000000-0000-0000-0000-000000000001") == 2
    assert redaction.replacements == {
        "web": "name-1",
        UUID: "00000000-0000-0000-0000-000000000001",
        "60c9…6666": "0000…0001",
    }


@given(text=st.text(max_size=300))
def test_any_text_can_be_redacted(text: str) -> None:
    Redaction([("name", "web")]).text(text)
