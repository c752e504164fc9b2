"""Runs in nmi's image, in a network namespace without rules: programs that change rules, and `nmi --cleanup`.

It prints a JSON object: `versions` of the programs, and the output of the clean-up by backend.
"""

import json
import subprocess
import sys

PROGRAMS = (
    *("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "iptables-nft-save", "iptables"),
    *("iptables-nft-restore", "iptables-legacy-save", "conntrack", "nft"),
)
# The rules of the Go implementation, with a match that an extension implements.
RULES = """*nat
:aad-metadata - [0:0]
-A PREROUTING -m comment --comment pods -j aad-metadata
-A aad-metadata ! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.4:2579
-A aad-metadata -j RETURN
COMMIT
"""

TABLE = json.dumps(
    {
        "nftables": [
            {"add": {"table": {"family": "ip", "name": "aad-pod-identity"}}},
            {"add": {"chain": {"family": "ip", "table": "aad-pod-identity", "name": "prerouting"}}},
        ]
    }
)


def run(*words: str, given: str = "") -> str:
    """Return the output of a program. Raise CalledProcessError."""
    return subprocess.run(words, input=given, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Print the result."""
    cleaned = {}
    for backend in ("nft", "legacy"):
        run(f"iptables-{backend}-restore", given=RULES)
        cleaned[backend] = run("nmi", "--cleanup").splitlines()
        cleaned[backend] += [line for line in run(f"iptables-{backend}-save").splitlines() if "DNAT" in line]
    run("nft", "-j", "-f", "-", given=TABLE)
    cleaned["nftables"] = [*run("nmi", "--cleanup").splitlines(), *run("nft", "list", "tables", "ip").splitlines()]
    json.dump({"versions": {name: run(name, "--version") for name in PROGRAMS}, "cleaned": cleaned}, sys.stdout)


if __name__ == "__main__":
    main()
