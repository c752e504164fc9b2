"""Scripts that run inside an image: its modules, its shared libraries, and the programs that change rules."""

import re
from pathlib import Path
from typing import Any

from tests.system.images.conftest import Image

INSIDE = Path(__file__).with_name("inside")
NOT_INSTALLED = re.compile(
    # Packages that modules of the dependencies integrate with, and modules of other platforms.
    r"No module named '(?:django|docutils|gunicorn|h2|hypothesis|js|msvcrt|mypy|OpenSSL|opentelemetry|portalocker|socks"
    r"|trio|twisted)"
)
OF_OTHER_IMAGES = re.compile(
    r"No module named '(?:_native|httptools|podidentity\.http_client\.connection|podidentity_sandbox)'"
)
"""What modules need of which podidctl uses none: the compiled modules, NMI's server, and `podidctl sandbox`."""
NOT_IMPORTED = {
    # Modules of other platforms.
    *("asyncio.windows_events", "asyncio.windows_utils", "encodings.mbcs", "encodings.oem", "msal.broker"),
    *("msal_extensions.libsecret", "msal_extensions.osx", "msal_extensions.windows", "rich._win32_console"),
    *("rich._windows_renderer", "shellingham.nt", "typer._click._winconsole"),
    "cffi._shimmed_dist_utils",  # only compiles other modules
    "libxtwrapper",  # a library that python-iptables loads by ctypes
}
OPTIONAL_IMPORTS = {"cffi/_shimmed_dist_utils.py", "iptc/util.py"}
"""Files that import distutils, which Python 3.12 and newer do not have either."""


def run_inside(image: Image, script: str, *, user: str = "0:0") -> dict[str, Any]:
    """Return the JSON object that a script of the folder `inside` prints as *user*; empty: as the image's."""
    code = (INSIDE / f"{script}.py").read_text()
    # A network namespace protects the machine from a program or a module that changes rules.
    return dict(image.python("-c", code, user=user, before=["unshare", "--net"]))


def test_every_module_can_be_imported(image: Image) -> None:
    result = run_inside(image, "imports")
    # The demo signs in without aiohttp, for which azure-core and azure-identity have modules.
    unused = "aiohttp" if image.name == "demo" else "-"
    allowed = [NOT_INSTALLED, OF_OTHER_IMAGES] if image.name == "podidctl" else [NOT_INSTALLED]
    assert {
        name: error
        for name, error in result["failed"].items()
        if not (any(pattern.search(error) for pattern in allowed) or unused in name or name in NOT_IMPORTED)
    } == {}
    assert {
        name: importing
        for name, importing in result["missing"].items()
        if not (name.startswith("distutils") and set(importing) <= OPTIONAL_IMPORTS)
        and name not in {"msvcrt", "winreg"}
    } == {}
    assert result["imported"] > 500


def test_every_shared_library_is_found(image: Image) -> None:
    result = run_inside(image, "shared_libraries")
    assert result["missing"] == {}
    assert result["files"] > 50


def test_rules_of_every_backend_are_removed() -> None:
    result = run_inside(Image("nmi"), "rules", user="")
    natively = result["cleaned"].pop("nftables")
    assert natively[0] == "removed the redirect of 169.254.169.254 (nftables)"
    assert "table ip aad-pod-identity" not in natively
    for backend, lines in result["cleaned"].items():
        assert lines == [f"removed the redirect of 169.254.169.254 (nat of iptables-{backend})"]
    for name, version in result["versions"].items():
        assert version.startswith("nftables" if name == "nft" else name.partition("-")[0])
