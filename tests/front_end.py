"""A front end without a page: it runs cells, mirrors the widgets of a kernel, and moves them by messages."""

import contextlib
import queue
import time
from collections.abc import Iterator

from jupyter_client.manager import start_new_kernel

SCREEN = "lcm_nb.widgets.screen.Screen"
SECONDS = 600  # only a failing test waits that long


def put(state, path: list, value: bytes) -> None:
    """Put a buffer to its place, which may lie in lists and dictionaries."""
    for step in path[:-1]:
        state = state[step]
    state[path[-1]] = value


class FrontEnd:
    """Runs cells, mirrors the widgets that the kernel opens, and moves them."""

    def __init__(self, client):
        self.client = client
        self.models: dict[str, dict] = {}
        self.messages: list[dict] = []

    def read_until(self, done) -> dict:
        """Mirror messages until ``done(message)``; return that message."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            message = self.read(SECONDS)
            if done(message):
                return message
        raise TimeoutError(f"not among {len(self.messages)} messages; widgets: {self.models}")

    def read(self, seconds: float) -> dict:
        """Mirror the next message, and return it."""
        message = self.client.get_iopub_msg(timeout=seconds)
        self.messages.append(message)
        self.mirror(message)
        return message

    def read_all(self) -> None:
        """Mirror what has come."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.read(0)

    def mirror(self, message) -> None:
        content, kind = message["content"], message["msg_type"]
        if kind == "comm_open":
            self.models[content["comm_id"]] = {}
        if kind in ("comm_open", "comm_msg") and content["data"].get("method", "update") == "update":
            model, data = self.models.setdefault(content["comm_id"], {}), content["data"]
            model.update(data.get("state", {}))
            for path, buffer in zip(data.get("buffer_paths", []), message["buffers"], strict=True):
                put(model, path, bytes(buffer))

    def run(self, code: str) -> None:
        sent = self.client.execute(code)
        self.read_until(
            lambda m: (
                m["parent_header"].get("msg_id") == sent
                and m["msg_type"] == "status"
                and m["content"]["execution_state"] == "idle"
            )
        )

    def find(self, **traits) -> str:
        """The comm id of the only widget with these traits."""
        (found,) = [id for id, m in self.models.items() if all(m.get(k) == v for k, v in traits.items())]
        return found

    def move(self, comm_id: str, value, subshell: str | None = None) -> None:
        """Set a control, as its view in the page does."""
        self.send(comm_id, {"method": "update", "state": {"value": value}, "buffer_paths": []}, subshell)

    def ask(self, comm_id: str, *files: bytes, **message) -> None:
        """Send what a widget's own view sends, with the bytes of files."""
        self.send(comm_id, {"method": "custom", "content": message}, files=files)

    def send(self, comm_id: str, data: dict, subshell: str | None = None, files: tuple[bytes, ...] = ()) -> None:
        content = {"comm_id": comm_id, "data": data}
        message = self.client.session.msg("comm_msg", content)
        if subshell:
            message["header"]["subshell_id"] = subshell
        self.client.session.send(self.client.shell_channel.socket, message, buffers=list(files))

    def printed(self) -> str:
        """Return what was printed last."""
        return [m["content"]["text"] for m in self.messages if m["msg_type"] == "stream"][-1]

    def new_subshell(self) -> str:
        """Open a second thread for messages, as newer front ends do for each kind of comm."""
        message = self.client.session.msg("create_subshell_request")
        self.client.control_channel.send(message)
        return self.client.get_control_msg(timeout=SECONDS)["content"]["subshell_id"]

    def wait_for_status(self, start: str) -> str:
        def told(message):
            value = message["content"].get("data", {}).get("state", {}).get("status", "")
            return message["msg_type"] == "comm_msg" and value.startswith(start)

        return self.read_until(told)["content"]["data"]["state"]["status"]

    def complaints(self) -> list[dict]:
        """Errors, and whatever was printed with a traceback."""
        return [
            m["content"]
            for m in self.messages
            if m["msg_type"] == "error"
            or (m["msg_type"] == "stream" and ("Traceback" in m["content"]["text"] or "Error" in m["content"]["text"]))
        ]


@contextlib.contextmanager
def kernel(environment: dict[str, str], folder) -> Iterator[FrontEnd]:
    """Yield the front end of a kernel of one's own, whose files are in the folder."""
    own = {name: str(folder / name) for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    manager, client = start_new_kernel(kernel_name="python3", env=environment | own, cwd=str(folder))
    try:
        yield FrontEnd(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
