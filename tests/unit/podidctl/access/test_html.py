"""The HTML report: its data, its policy, no markup from names, and the command's refusals."""

import base64
import hashlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typing_extensions import override

from podidctl.access.html.document import MISSING, content_security_policy, document, model, to_json
from podidctl.access.outputs import AccessOutput, render
from podidctl.access.schema import AccessReview
from podidentity.exits import StartError
from podidentity.report import printable
from tests.support.podidctl.access.small_cluster import reviewed

HOSTILE = "</script><script>alert(1)</script><!--\u2028'\"&<img src=x onerror=alert(2)>"


class Elements(HTMLParser):
    """The elements of a page, with the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag in self.texts:
            self.texts[tag].append("")

    @override
    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    @override
    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside][-1] += data


def elements(page: str) -> Elements:
    parsed = Elements()
    parsed.feed(page)
    return parsed


def hostile(review: AccessReview) -> AccessReview:
    """Replace every text of the review by HOSTILE, except the values of enumerations."""

    def change(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            fields = {name: change(getattr(value, name)) for name in value.__struct_fields__}
            return msgspec.structs.replace(value, **fields)
        if isinstance(value, list):
            return [change(element) for element in value]
        return HOSTILE if type(value) is str else value

    return msgspec.convert(msgspec.to_builtins(change(review)), AccessReview)


def test_every_object_of_the_review_is_in_the_data() -> None:
    review = reviewed()
    made = model(review)

    for name in ("identities", "bindings", "pods", "grants", "nodes", "hosts", "subjects"):
        assert len(made[name]) == len(getattr(review, name)) > 0, name
    for grant, shown in zip(review.grants, made["grants"], strict=True):
        assert made["pods"][shown["pod"]]["name"] == grant.pod
        assert made["identities"][shown["identity"]]["name"] == grant.identity
        assert shown["state"] == grant.state.value
        assert (made["bindings"][shown["binding"]]["name"] if shown["binding"] >= 0 else "") == grant.binding
    unexplained = [
        attached.resource_id for host in review.hosts for attached in host.attached if not attached.identities
    ]
    assert [other["resourceId"] for other in made["others"]] == list(dict.fromkeys(unexplained)) != []
    review = reviewed()
    empty = msgspec.structs.replace(review, identities=[], bindings=[], nodes=[], hosts=[])
    made = model(empty)
    assert {grant["identity"] for grant in made["grants"]} == {-1}
    assert {shown["node"] for shown in made["pods"]} == {-1}


def test_the_json_contains_no_markup_and_keeps_the_text() -> None:
    text = to_json({"name": HOSTILE})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"name": HOSTILE}


def test_hostile_names_add_no_element() -> None:
    usual, attacked = elements(document(reviewed())), elements(document(hostile(reviewed())))

    assert [tag for tag, _ in attacked.tags] == [tag for tag, _ in usual.tags]
    assert attacked.texts["script"][1:] == usual.texts["script"][1:]
    assert json.loads(attacked.texts["script"][0])["pods"][0]["name"] == printable(f"{HOSTILE}/{HOSTILE}")


def test_unknown_parts_and_the_licence_of_d3_are_in_the_file() -> None:
    review = msgspec.convert(
        msgspec.to_builtins(reviewed()) | {"unknown": [{"part": "pods", "why": "forbidden", "right": "list <pods>"}]},
        AccessReview,
    )
    assert "<li>pods: forbidden; list &lt;pods&gt;</li>" in document(review)
    page = document(reviewed())
    assert re.search(r"D3 3\.\d+\.\d+, https://d3js.org", page)
    assert "Redistributions of source code must retain the above copyright notice" in page


def test_the_policy_permits_exactly_the_embedded_scripts_and_style() -> None:
    page = elements(document(reviewed()))
    (policy,) = [tag["content"] or "" for name, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy"]

    def source(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"].split() == [source(script) for script in page.texts["script"][1:]]
    assert directives["style-src"] == source(page.texts["style"][0])
    assert "unsafe" not in policy
    assert content_security_policy(scripts=("a",), style="b") != policy


def test_no_element_names_an_address() -> None:
    for tag, attributes in elements(document(reviewed())).tags:
        assert not {"src", "srcset", "action", "style", "data"} & set(attributes), tag
        assert tag != "link"
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
        assert not [name for name in attributes if name.startswith("on")], tag


@pytest.mark.parametrize("package", ["jinja2", "xstatic.pkg"])
def test_without_the_extra_one_line_names_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StartError) as raised:
        document(reviewed())
    assert str(raised.value) == MISSING
    assert "NATIVE_OMIT=1 pipx install --force '.[report]' in a checkout" in MISSING
    assert "\n" not in MISSING


def test_a_terminal_is_refused_with_the_next_action() -> None:
    with pytest.raises(StartError) as raised:
        render(reviewed(), AccessOutput.HTML, Console(file=io.StringIO(), force_terminal=True))
    assert "podidctl access -o html > access.html" in str(raised.value)
