"""A metadata endpoint that answers each token request with the same response.

usage: static_imds.py STATUS CONTENT-TYPE BODY COMMAND...

Run in a network namespace of its own. The address 169.254.169.254 is added to its loopback interface, and COMMAND runs
while the endpoint answers there. The exit code is that of COMMAND.
"""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

ADDRESS = "169.254.169.254"
PROBE = b'{"error":"invalid_request","error_description":"Required metadata header not specified"}'


class Handler(BaseHTTPRequestHandler):
    """Answers of the endpoint."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, kind, body = sys.argv[1:4]
        if self.headers.get("Metadata", "").lower() == "true":
            self.answer(int(status), kind, body.encode())
        else:
            self.answer(400, "application/json", PROBE)

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def main() -> int:
    for command in (("link", "set", "lo", "up"), ("address", "add", f"{ADDRESS}/32", "dev", "lo")):
        subprocess.run(["ip", *command], check=True)
    server = ThreadingHTTPServer((ADDRESS, 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return subprocess.run(sys.argv[4:], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
