"""The OpenVEX document has the statements of vulnerabilities.yaml about the packages that the bills have."""

import json
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import pytest
import yaml

from deploy.docker.install_packages import LOCK, locked_versions
from tests.repository.release.conftest import write_image
from tests.support.checkout import ROOT
from tools.lock_packages import ARCHITECTURES
from tools.release import vulnerabilities
from tools.release.images import products_of
from tools.release.vulnerabilities import DISTRIBUTIONS, PRODUCTS, Product, differences, document, problems, read

OWN: Final = (ROOT / vulnerabilities.FILE).read_text()
ZLIB: Final = "pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1?arch=amd64&distro=debian-12"
NMI: Final = Product("nmi", "pkg:oci/nmi@sha256%3Aabc", {ZLIB, "pkg:pypi/aiohttp@3.14.5"})
STATEMENT: Final[dict[str, Any]] = {
    "vulnerability": "CVE-2023-45853",
    "package": "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1",
    "products": ["nmi"],
    "status": "not_affected",
    "justification": "vulnerable_code_not_present",
    "date": date(2026, 11, 30),
    "reason": "MiniZip is not built.",
    "sources": ["https://security-tracker.debian.org/tracker/CVE-2023-45853"],
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_statements_of_the_repository_are_about_the_locked_versions(architecture: str) -> None:
    # The images of a release are Debian 12's. The lock does not have all packages of the base.
    locked = locked_versions(LOCK.read_text(), "bookworm", architecture)
    components = {f"pkg:deb/debian/{name}@{version}" for name, version in locked.items()}
    names = {component.rpartition("@")[0] for component in components}
    statements = [statement for statement in read(OWN) if statement["package"].rpartition("@")[0] in names]
    assert statements
    assert [*differences(statements, [Product(name, "", components) for name in PRODUCTS])] == []


def test_a_complete_statement_becomes_a_statement_of_openvex() -> None:
    assert [*problems([STATEMENT]), *differences([STATEMENT], [NMI]), *differences([STATEMENT], [])] == []
    assert document([STATEMENT], [], "1.0.0", 0) is None, "without a bill of the products"
    made = document([STATEMENT], [NMI], "1.0.0", 1_700_000_000)
    assert made is not None
    assert {name: value for name, value in made.items() if name != "statements"} == {
        "@context": "https://openvex.dev/ns/v0.2.0",
        "@id": "urn:aad-pod-identity:openvex:1.0.0",
        "author": "aad-pod-identity maintainers",
        "role": "Document Creator",
        "timestamp": "2023-11-14T22:13:20+00:00",
        "version": 1,
    }
    assert made["statements"] == [
        {
            "vulnerability": {"name": "CVE-2023-45853"},
            "products": [
                {
                    "@id": NMI.url,
                    "subcomponents": [
                        {"@id": "pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1"},
                        {"@id": "pkg:deb/debian/zlib1g@1.2.13.dfsg-1?epoch=1"},
                    ],
                }
            ],
            "status": "not_affected",
            "timestamp": "2026-11-30T00:00:00+00:00",
            "justification": "vulnerable_code_not_present",
            "status_notes": "MiniZip is not built. Sources: https://security-tracker.debian.org/tracker/CVE-2023-45853",
        }
    ]


def matches(general: str, specific: str) -> bool:
    """The rule of PurlMatches in go-vex, which Trivy and Grype use: *specific* has all qualifiers of *general*."""
    (name, _, qualifiers), (scanned, _, present) = general.partition("?"), specific.partition("?")
    return unquote(name) == unquote(scanned) and {*parse_qsl(qualifiers)} <= {*parse_qsl(present)}


@pytest.mark.parametrize(
    ("package", "scanned"),
    [
        ("zlib1g@1:1.2.13.dfsg-1", "zlib1g@1.2.13.dfsg-1?arch=amd64&distro=debian-12.15&epoch=1"),
        ("zlib1g@1:1.2.13.dfsg-1", "zlib1g@1%3A1.2.13.dfsg-1?arch=amd64&distro=debian-12&upstream=zlib"),
        ("libuuid1@2.38.1-5+deb12u3", "libuuid1@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12.15"),
        ("libuuid1@2.38.1-5+deb12u3", "libuuid1@2.38.1-5%2Bdeb12u3?arch=amd64&distro=debian-12&upstream=util-linux"),
    ],
    ids=["trivy-with-epoch", "syft-with-epoch", "trivy", "syft"],
)
def test_the_package_that_a_scanner_finds_is_one_of_the_document(package: str, scanned: str) -> None:
    package, scanned = f"pkg:deb/debian/{package}", f"pkg:deb/debian/{scanned}"
    component = package.replace(":1.2", "%3A1.2").replace("+", "%2B") + "?arch=amd64&distro=debian-12"
    made = document([{**STATEMENT, "package": package}], [Product("nmi", NMI.url, {component})], "1.0.0", 0)
    assert made is not None
    ((product,),) = (statement["products"] for statement in made["statements"])
    named = [component["@id"] for component in product["subcomponents"]]
    assert any(matches(purl, scanned) for purl in named)
    assert not any(matches(purl, scanned.replace("?", ".1?")) for purl in named)


@pytest.mark.parametrize(
    ("status", "extra"),
    [("affected", {"action": "Set nmi.redirect.backend."}), ("fixed", {}), ("under_investigation", {})],
)
def test_the_other_statuses_need_no_justification(status: str, extra: dict[str, str]) -> None:
    statement = {**STATEMENT, "status": status, **extra}
    del statement["justification"]
    assert [*problems([statement])] == []
    made = document([statement], [NMI], "1.0.0", 0)
    assert made is not None
    (written,) = made["statements"]
    assert written.get("action_statement") == extra.get("action")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "harmless"}, "has the status harmless; use one of not_affected, affected, fixed, under_investig"),
        ({"status": None}, "lacks status"),
        ({"justification": None}, "is not_affected without justification"),
        ({"justification": "too_hard_to_reach"}, "has the justification too_hard_to_reach; with not_affected, use"),
        ({"status": "fixed"}, "has the justification vulnerable_code_not_present; with not_affected, use"),
        ({"status": "affected", "justification": None}, "is affected without action"),
        ({"products": ["chart"]}, "names the product chart, which has no bill of materials"),
        ({"products": "nmi"}, "has no list of texts in products"),
        ({"products": []}, "lacks products"),
        ({"sources": []}, "lacks sources"),
        ({"reason": ""}, "lacks reason"),
        ({"date": "yesterday"}, "has no date of the form 2026-11-30"),
        ({"impact": "none"}, "has the unknown field impact"),
    ],
)
def test_a_statement_with_a_fault_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^vulnerabilities\.yaml: CVE-2023-45853 about ") as refused:
        read(yaml.safe_dump({"statements": [{**STATEMENT, **changes}]}))
    assert f"about pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1 {message}" in str(refused.value)


def test_two_statements_about_the_same_or_about_another_product_are_refused() -> None:
    (problem,) = problems([STATEMENT, {**STATEMENT, "status": "fixed", "justification": None}])
    assert problem.endswith("in nmi; keep one")
    other_product = Product("mic", "pkg:oci/mic@sha256%3Adef", {"pkg:pypi/aiohttp@3.14.5"})
    (problem,) = differences([{**STATEMENT, "products": ["nmi", "mic"]}], [NMI, other_product])
    assert "but mic contains no version of it" in problem


@pytest.mark.parametrize("text", ["statements: none", "[]", "statements: [a]", "a: ["])
def test_a_file_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^vulnerabilities\.yaml (has no list of statements|is not YAML)"):
        read(text)


@pytest.mark.parametrize(
    ("package", "contained"),
    [
        ("pkg:deb/debian/zlib1g@1:1.2.11.dfsg-2", "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1"),
        ("pkg:deb/debian/minizip@1", "no version of it"),
    ],
)
def test_a_package_that_is_not_in_the_bill_of_the_product_is_refused(package: str, contained: str) -> None:
    (problem,) = differences([{**STATEMENT, "package": package}], [NMI])
    assert f"is about {package}, but nmi contains {contained}; verify the statement" in problem


def test_the_products_are_the_images_by_digest_and_the_distributions(tmp_path: Path) -> None:
    write_image(tmp_path, "nmi", [ZLIB])
    pypi = {"name": DISTRIBUTIONS, "purl": "pkg:pypi/aad-pod-identity@1.0.0"}
    for name, component, content in (
        ("python-linux_x86_64", pypi, {"purl": "pkg:pypi/aiohttp@3.14.5"}),
        ("python-linux_aarch64", pypi, {"purl": "pkg:pypi/uvloop@0.23.0"}),
        ("chart", {"name": "aad-pod-identity (chart)"}, {"name": "aad-pod-identity/nmi"}),
    ):
        bill = {"metadata": {"component": component}, "components": [content]}
        (tmp_path / f"{name}.cdx.json").write_text(json.dumps(bill))
    image, distributions = sorted(products_of(sorted(tmp_path.iterdir())), key=lambda product: product.url)
    digest = "a" * 64
    assert image == Product("nmi", f"pkg:oci/nmi@sha256%3A{digest}", {ZLIB})
    assert distributions == Product(
        DISTRIBUTIONS, "pkg:pypi/aad-pod-identity@1.0.0", {"pkg:pypi/aiohttp@3.14.5", "pkg:pypi/uvloop@0.23.0"}
    )
    assert {image.name, distributions.name} <= set(PRODUCTS)

    for scanned in ("repository_url=ghcr.io/owner/nmi", "arch=amd64&repository_url=ghcr.io/owner/nmi"):
        assert matches(image.url, f"pkg:oci/nmi@sha256:{digest}?{scanned}")
        assert not matches(image.url, f"pkg:oci/nmi@sha256:def?{scanned}")
