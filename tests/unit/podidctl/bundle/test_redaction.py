"""What an archive for support contains of a customer's names and identifiers: nothing."""

import json
import string
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podidctl.bundle.redaction import KEPT_ADDRESSES, KEPT_NAMES, NAMESPACE, Redaction

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
            "AADSTS700016",
            "v1.2.3",
            "1.5",
        ),
    ],
)
def test_what_names_no_customer_remains(text: str) -> None:
    assert Redaction([(NAMESPACE, "team-a")]).text(text) == text


def test_one_text_has_one_replacement_in_all_values() -> None:
    redaction = Redaction([("name", "web")])
    value = redaction.value({"web": ["web", f"/subscriptions/{UUID}", 1, None], "b": {"c": f"web/{UUID}"}})
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
