"""A Firefox that tests drive by WebDriver BiDi, which it speaks itself: Playwright drives only a build of its own."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from websocket import create_connection

SECONDS = 120  # only a failing test waits that long


def firefox() -> str | None:
    """Return Firefox's program, None where there is none."""
    return os.environ.get("LCM_NB_FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")


class Page:
    """A tab."""

    def __init__(self, connection: Any):
        self._connection, self._numbers = connection, itertools.count()
        self._send("session.new", capabilities={})
        self._context = self._send("browsingContext.getTree")["contexts"][0]["context"]

    def _send(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._connection.recv())).get("id") != number:
            pass  # events
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['message']}")
        return answer["result"]

    def goto(self, address: str) -> None:
        self._send("browsingContext.navigate", context=self._context, url=address, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Return what an expression, or its promise, comes to."""
        target = {"context": self._context}
        code = f"Promise.resolve({expression}).then(value => JSON.stringify(value ?? null))"
        found = self._send("script.evaluate", expression=code, target=target, awaitPromise=True)
        if found["type"] == "exception":
            raise RuntimeError(found["exceptionDetails"]["text"])
        return json.loads(found["result"]["value"])


@contextlib.contextmanager
def page_in_firefox(program: str) -> Iterator[Page]:
    """Start Firefox with a fresh profile and yield its tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, "--headless", "--profile", profile, "--remote-debugging-port", "0", "about:blank"]
        pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        process = subprocess.Popen(command, env=os.environ | {"HOME": profile}, **pipes)
        try:
            said = next(line for line in process.stderr if "WebDriver BiDi listening on" in line)
            address = f"{said.split()[-1]}/session"
            with contextlib.closing(create_connection(address, timeout=SECONDS, suppress_origin=True)) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            process.wait(30)
