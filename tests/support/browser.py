"""A headless Chromium that tests control by its DevTools protocol. It has no network: pages are files.

Every request, console message, exception and violation of a policy is recorded.
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support.waiting import until

CALL_SECONDS: Final = 30.0
FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--proxy-server=127.0.0.1:9",
    "--remote-debugging-port=0",
)
"""The proxy does not exist, so no request leaves the machine."""


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._next = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.requests: list[str] = []
        """URLs, the page itself included."""
        self.problems: list[str] = []
        """Messages of the console, exceptions and log entries."""

    async def receive(self) -> None:
        """Handle messages until the connection ends."""
        async for message in self._socket:
            self._handle(json.loads(message.data))

    def _handle(self, message: dict[str, Any]) -> None:
        waiting = self._waiting.pop(message.get("id", -1), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        given = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.problems.append(f"console {given['type']}: {given['args']}")
            case "Runtime.exceptionThrown":
                self.problems.append(f"exception: {given['exceptionDetails']}")
            case "Log.entryAdded":
                self.problems.append(f"log: {given['entry']}")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of one call of the protocol. Raises RuntimeError for an error."""
        self._next += 1
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._next] = waiting
        await self._socket.send_str(json.dumps({"id": self._next, "method": method, "params": parameters}))
        message = await asyncio.wait_for(waiting, CALL_SECONDS)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression. Raises RuntimeError for an exception."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until *expression* is true."""
        await until(lambda: self.evaluate(expression), expression)

    async def open(self, path: Path) -> None:
        """Open a file, by its absolute path. Does not wait for it."""
        await self.call("Page.navigate", url=path.as_uri())

    async def type(self, text: str) -> None:
        """Type printable characters."""
        for character in text:
            await self.call("Input.dispatchKeyEvent", type="keyDown", text=character, key=character)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=character)

    async def press(self, key: str) -> None:
        """Press a key by its name, such as `Escape`."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def click(self, x: float, y: float) -> None:
        """Click at a point of the viewport."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def click_on(self, expression: str) -> None:
        """Scroll the element of a JavaScript expression into view and click at its center."""
        x, y = await self.evaluate(
            f"(() => {{ const found = {expression}; found.scrollIntoView({{block: 'center'}});"
            " const box = found.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        await self.click(x, y)

    async def screenshot(self, path: Path) -> None:
        """Write the viewport as PNG."""
        result = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(result["data"]))


def executable() -> str | None:
    """Return the path of Chromium, if it is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.asynccontextmanager
async def open_page(folder: Path, *, width: int = 1400, height: int = 1000) -> AsyncIterator[Page]:
    """Start Chromium with its profile in *folder* and return its only tab. Ends the whole process group."""
    program = await asyncio.to_thread(executable)
    assert program is not None, "Chromium is missing; run: tools/system-packages browser"
    process = await asyncio.create_subprocess_exec(
        program,
        *FLAGS,
        f"--user-data-dir={folder}",
        f"--window-size={width},{height}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession(trust_env=False) as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                tab = next(target for target in await response.json() if target["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=64 << 20) as socket:
                page = Page(socket)
                receiving = asyncio.create_task(page.receive(), name="browser")
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                await page.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
                )
                try:
                    yield page
                finally:
                    receiving.cancel()
                    await asyncio.wait({receiving})
    finally:
        _end(process)
        await process.wait()


def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _port(path: Path) -> int:
    """Return the port from the file that Chromium writes when it listens."""
    return await until(
        lambda: int(path.read_text().split()[0]),
        "Chromium listens",
        ignoring=(FileNotFoundError, IndexError, ValueError),
    )
