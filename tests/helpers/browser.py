"""A Chromium without a window, asked through its DevTools protocol."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
         "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required")  # fmt: skip


def found() -> str | None:
    """The browser that HEADRACE_CHROMIUM names, or one on PATH."""
    return os.environ.get("HEADRACE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def ask(page: Path, expression: str, folder: Path) -> tuple[Any, list[str]]:
    """Open a page and evaluate an expression in it, a promise too.

    Args:
        folder: an empty one, for the browser's own files.
    Returns:
        Its value, and what the console said: errors and warnings, requests that failed or left the page.
    """
    command = [str(found()), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            return asyncio.run(_ask(_port(folder), page.as_uri(), expression))
        finally:
            browser.kill()


def _port(folder: Path) -> str:
    file, end = folder / "DevToolsActivePort", time.monotonic() + 60
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    return file.read_text().split()[0]


async def _ask(port: str, url: str, expression: str) -> tuple[Any, list[str]]:
    listed = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
    tab = next(one for one in json.loads(listed.body) if one["type"] == "page")
    socket = await websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=1 << 28)
    events: list[dict[str, Any]] = []

    async def wait_for(test: Any) -> dict[str, Any]:
        while True:
            message = json.loads(await asyncio.wait_for(socket.read_message(), 120))  # type: ignore[arg-type]
            events.append(message)
            if test(message):
                return message

    async def call(number: int, method: str, **params: Any) -> None:
        await socket.write_message(json.dumps({"id": number, "method": method, "params": params}))

    for number, domain in enumerate(("Runtime", "Log", "Network", "Page")):
        await call(number, f"{domain}.enable")
    await call(10, "Page.navigate", url=url)
    await wait_for(lambda message: message.get("method") == "Page.loadEventFired")
    await call(11, "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
    answer = await wait_for(lambda message: message.get("id") == 11)
    return answer["result"]["result"].get("value"), [said for event in events if (said := _said(event))]


def _said(event: dict[str, Any]) -> str:
    method, params = event.get("method", ""), event.get("params", {})
    if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
        return json.dumps(params)
    if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
        return f"asked for {params['request']['url']}"
    return ""
