"""A target installs nft and iptables before it checks whether the machine can run real nodes, which needs both."""

import re
from pathlib import Path

MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text()
CHECK = "-m tests.realnode.machine"
RECIPES = re.findall(r"^([a-z.-]+):[^=\n]*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)


def test_packages_of_tests_are_installed_before_the_machine_is_checked() -> None:
    checked = {name: commands for name, commands in RECIPES if CHECK in commands}
    assert {"test-node", ".node-programs"} <= checked.keys()
    for name, commands in checked.items():
        assert "$(PACKAGES) test\n" in commands.partition(CHECK)[0], name
