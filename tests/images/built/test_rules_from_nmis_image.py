"""The programs of nmi's image that change rules and connections, in a network namespace."""

import json
import subprocess

from tests.images.built.conftest import Image
from tests.images.built.test_what_an_image_can_load import INSIDE


def test_rules_of_every_backend_are_removed() -> None:
    image = Image("nmi")
    code = (INSIDE / "rules.py").read_text()
    command = ["unshare", "--net", *image.run("/opt/podidentity/bin/python3", "-I", "-c", code)]
    done = subprocess.run(command, env=image.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    natively = result["cleaned"].pop("nftables")
    assert natively[0] == "removed the redirect of 169.254.169.254 (nftables)"
    assert "table ip aad-pod-identity" not in natively
    for backend, lines in result["cleaned"].items():
        assert lines == [f"removed the redirect of 169.254.169.254 (nat of iptables-{backend})"]
    for name, version in result["versions"].items():
        assert version.startswith("nftables" if name == "nft" else name.partition("-")[0])
