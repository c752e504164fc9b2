"""What known vulnerabilities mean for the release: vulnerabilities.yaml as a document of OpenVEX v0.2.0."""

import datetime
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

import yaml

FILE: Final = "vulnerabilities.yaml"
CONTEXT: Final = "https://openvex.dev/ns/v0.2.0"
DISTRIBUTIONS: Final = "aad-pod-identity"
PRODUCTS: Final = ("nmi", "mic", "podidctl", "demo", DISTRIBUTIONS)
NEEDED: Final = {"not_affected": "justification", "affected": "action", "fixed": "", "under_investigation": ""}
"""The field that a status needs, by status."""
JUSTIFICATIONS: Final = (
    "component_not_present",
    "vulnerable_code_not_present",
    "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary",
    "inline_mitigations_already_exist",
)
REQUIRED: Final = ("vulnerability", "package", "products", "status", "date", "reason", "sources")
FIELDS: Final = {*REQUIRED, "aliases", "justification", "action"}


@dataclass(frozen=True, slots=True)
class Product:
    """An artifact with a bill of materials: an image for one architecture, or the Python distributions."""

    name: str
    """One of PRODUCTS."""
    url: str
    """Package URL of exactly this artifact, without qualifiers, because scanners must have each of them."""
    components: Collection[str]
    """Package URLs of its bill."""


def read(text: str) -> list[dict[str, Any]]:
    """Return the statements in the text of FILE. Raise ValueError if it has another form or `problems`."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{FILE} is not YAML: {error}") from error
    statements = document.get("statements") if isinstance(document, dict) else None
    if not isinstance(statements, list) or not all(isinstance(statement, dict) for statement in statements):
        raise ValueError(f"{FILE} has no list of statements")
    if faults := [*problems(statements)]:
        raise ValueError("\n".join(faults))
    return statements


def problems(statements: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a message for each fault of the *statements* that is visible without bills of materials."""
    for statement in statements:
        place = f"{FILE}: {statement.get('vulnerability')} about {statement.get('package')}"
        yield from (f"{place} lacks {name}" for name in REQUIRED if not statement.get(name))
        yield from (f"{place} has the unknown field {name}" for name in sorted({*statement} - FIELDS))
        status, justification = statement.get("status"), statement.get("justification")
        if status not in NEEDED:
            yield f"{place} has the status {status}; use one of {', '.join(NEEDED)}"
        elif (needed := NEEDED[status]) and not statement.get(needed):
            yield f"{place} is {status} without {needed}"
        if justification and (status != "not_affected" or justification not in JUSTIFICATIONS):
            permitted = f"with not_affected, use one of {', '.join(JUSTIFICATIONS)}"
            yield f"{place} has the justification {justification}; {permitted}"
        for name in ("products", "sources", "aliases"):
            value = statement.get(name) or []
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                yield f"{place} has no list of texts in {name}"
        for name in _listed(statement, "products"):
            if name not in PRODUCTS:
                yield f"{place} names the product {name}, which has no bill of materials; use {', '.join(PRODUCTS)}"
        if type(statement.get("date")) is not datetime.date:
            yield f"{place} has no date of the form 2026-11-30"
    stated = Counter(
        (entry.get("vulnerability"), entry.get("package"), name)
        for entry in statements
        for name in _listed(entry, "products")
    )
    for (vulnerability, package, name), count in stated.items():
        if count > 1:
            yield f"{FILE} has {count} statements on {vulnerability} about {package} in {name}; keep one"


def differences(statements: Iterable[Mapping[str, Any]], products: Sequence[Product]) -> Iterator[str]:
    """Yield a message for each package that no bill of the product that its statement names has.

    A product of which *products* has no bill is not compared: `WITHOUT=images` omits some.
    """
    for statement in statements:
        for name in statement["products"]:
            bills = [product for product in products if product.name == name]
            if bills and not any(_contains(product, statement["package"]) for product in bills):
                package = statement["package"].rpartition("@")[0] + "@"
                contained = {_bare(component) for bill in bills for component in bill.components}
                others = " and ".join(sorted(component for component in contained if component.startswith(package)))
                yield (
                    f"{FILE}: {statement['vulnerability']} is about {statement['package']}, but {name} contains "
                    f"{others or 'no version of it'}; verify the statement, then change or remove it"
                )


def document(
    statements: Iterable[Mapping[str, Any]], products: Sequence[Product], version: str, epoch: int
) -> dict[str, Any] | None:
    """Return the OpenVEX document about *products* of *version*, issued at *epoch*; None if no statement is about them.

    OpenVEX permits no document without a statement.
    """
    written = []
    for statement in statements:
        about = [
            {"@id": product.url, "subcomponents": [{"@id": url} for url in _subcomponents(statement["package"])]}
            for product in products
            if product.name in statement["products"] and _contains(product, statement["package"])
        ]
        if about:
            written.append(_statement(statement, about))
    if not written:
        return None
    return {
        "@context": CONTEXT,
        "@id": f"urn:aad-pod-identity:openvex:{version}",
        "author": "aad-pod-identity maintainers",
        "role": "Document Creator",
        "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.UTC).isoformat(),
        "version": 1,
        "statements": written,
    }


def _statement(statement: Mapping[str, Any], about: list[dict[str, Any]]) -> dict[str, Any]:
    aliases = {"aliases": statement["aliases"]} if "aliases" in statement else {}
    return {
        "vulnerability": {"name": statement["vulnerability"], **aliases},
        "products": about,
        "status": statement["status"],
        "timestamp": f"{statement['date']}T00:00:00+00:00",
        "status_notes": " ".join([statement["reason"], "Sources:", *statement["sources"]]),
        **({"justification": statement["justification"]} if "justification" in statement else {}),
        **({"action_statement": statement["action"]} if "action" in statement else {}),
    }


def _listed(statement: Mapping[str, Any], name: str) -> list[str]:
    """Return the texts of a list in *statement*, none if it is not a list."""
    value = statement.get(name)
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _contains(product: Product, package: str) -> bool:
    """Return whether the bill of *product* has *package*."""
    return any(_bare(component) == package for component in product.components)


def _subcomponents(package: str) -> list[str]:
    """Return the package URLs that match those of scanners, which must have each qualifier of the document.

    Scanners add qualifiers that differ from the bill's: `distro=debian-12.15`. Trivy has the epoch of a version only
    as a qualifier.
    """
    name, _, version = package.rpartition("@")
    epoch, colon, rest = version.partition(":")
    return [f"{name}@{quote(version, '')}", *([f"{name}@{quote(rest, '')}?epoch={epoch}"] if colon else [])]


def _bare(url: str) -> str:
    """Return a package URL without qualifiers and percent escapes."""
    return unquote(url.partition("?")[0])
