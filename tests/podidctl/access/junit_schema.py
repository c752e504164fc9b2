"""The schema junit-10.xsd, by which Jenkins' xUnit plugin accepts a JUnit report, for the elements of the output.

No package ships the schema. Source: jenkinsci/xunit-plugin, src/main/resources/org/jenkinsci/plugins/xunit/types/model/
xsd/junit-10.xsd. An element or attribute that is not in RULES is an error, even if the schema has it.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple
from xml.etree import ElementTree


class Rule(NamedTuple):
    """The content of one element."""

    children: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    """The required attributes."""
    optional: frozenset[str] = frozenset()
    text: bool = False
    """Whether it may have text other than white space."""


NUMBERS: Final = frozenset({"tests", "failures", "errors"})
RULES: Final = {
    "testsuites": Rule(frozenset({"testsuite"}), optional=NUMBERS | {"name"}),
    "testsuite": Rule(frozenset({"testcase"}), NUMBERS | {"name"}, frozenset({"skipped"})),
    "testcase": Rule(
        frozenset({"failure", "error", "system-out"}), frozenset({"name"}), frozenset({"classname", "time"})
    ),
    "failure": Rule(optional=frozenset({"type", "message"}), text=True),
    "error": Rule(optional=frozenset({"type", "message"}), text=True),
    "system-out": Rule(text=True),
}


def violations(text: str) -> list[str]:
    """Return one line per violation of the schema, or of the totals, in the report *text*. Raises ParseError."""
    root = ElementTree.fromstring(text)  # noqa: S314 - the text is the program's own
    wrong = [] if root.tag == "testsuites" else [f"the root is {root.tag}"]
    return [*wrong, *_wrong_elements(root), *_wrong_totals(root)]


def _wrong_elements(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        rule = RULES.get(element.tag)
        if rule is None:
            yield f"unknown element {element.tag}"
            continue
        names = set(element.keys())
        yield from (f"{element.tag} has the attribute {each}" for each in names - rule.required - rule.optional)
        yield from (f"{element.tag} lacks the attribute {each}" for each in rule.required - names)
        yield from (f"{element.tag} contains {each.tag}" for each in element if each.tag not in rule.children)
        between = [element.text, *(each.tail for each in element)]
        if not rule.text and any((each or "").strip() for each in between):
            yield f"{element.tag} contains text"


def _wrong_totals(root: ElementTree.Element) -> Iterator[str]:
    for element in (root, *root.iter("testsuite")):
        cases = list(element.iter("testcase"))
        for name, children in (("failures", "failure"), ("errors", "error")):
            count = sum(case.find(children) is not None for case in cases)
            if element.get(name) != str(count):
                yield f"{element.tag} has {name} {element.get(name)}, and {count} cases have one"
        if element.get("tests") != str(len(cases)):
            yield f"{element.tag} has tests {element.get('tests')}, and contains {len(cases)} cases"
