"""A program with the command line of the Go implementation's NMI: every pod gets the same token.
It writes a nat rule unless IMDS is on loopback.

Run as `go_nmi.py FLAGS`. It ends with code 2 for an unknown or missing flag, and without a kubeconfig in KUBECONFIG.
"""

import argparse
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from typing_extensions import override

FLAGS = ("node", "nmi-port", "http-probe-port", "prometheus-port", "metadata-ip", "metadata-port")
BOOLEANS = ("metadata-header-required", "enableScaleFeatures")
TOKEN = json.dumps({"access_token": "t" * 1500, "expires_in": "3600", "token_type": "Bearer"}).encode()


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


class Tokens(Quiet):
    def do_GET(self) -> None:
        if self.headers.get("Metadata") != "true":
            self.reply(400, b"{}")
        elif not self.path.startswith("/metadata/identity/oauth2/token"):
            self.reply(404, b"{}")
        else:
            self.reply(200, TOKEN)


class Probe(Quiet):
    def do_GET(self) -> None:
        self.reply(200, b"Active")


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", required=True)
    for flag in BOOLEANS:
        parser.add_argument(f"--{flag}", choices=["true", "false"], required=True)
    given = parser.parse_args()
    if "current-context" not in Path(os.environ["KUBECONFIG"]).read_text():
        parser.error("KUBECONFIG names no kubeconfig")
    if not given.metadata_ip.startswith("127."):
        matches = f"-d {given.metadata_ip} -p tcp --dport {given.metadata_port}"
        rule = f"-A PREROUTING {matches} -j DNAT --to-destination 127.0.0.1:{given.nmi_port}"
        subprocess.run(["iptables", "-w", "-t", "nat", *rule.split()], check=True)
    tokens = ThreadingHTTPServer(("127.0.0.1", int(given.nmi_port)), Tokens)
    threading.Thread(target=tokens.serve_forever, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(given.http_probe_port)), Probe).serve_forever()


if __name__ == "__main__":
    main()
