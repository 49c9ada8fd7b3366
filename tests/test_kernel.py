"""The panel in a real kernel, driven by the messages that a front end sends."""

import io
import time
from importlib.metadata import version

import pytest
from jupyter_client.manager import start_new_kernel
from PIL import Image

SUBSHELLS = int(version("ipykernel").split(".")[0]) >= 7  # Colab's 6 has none
SCREEN = "lcm_nb.widgets.screen.Screen"
SECONDS = 120  # only a failing test waits that long
CELL = """
import lcm_nb
panel = lcm_nb.load("text-to-image").panel()
panel
"""


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
            message = self.client.get_iopub_msg(timeout=SECONDS)
            self.messages.append(message)
            self.mirror(message)
            if done(message):
                return message
        raise TimeoutError(f"not among {len(self.messages)} messages; widgets: {self.models}")

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

    def ask(self, comm_id: str, **message) -> None:
        """Send what the panel's own view sends."""
        self.send(comm_id, {"method": "custom", "content": message})

    def send(self, comm_id: str, data: dict, subshell: str | None = None) -> None:
        content = {"comm_id": comm_id, "data": data}
        message = self.client.session.msg("comm_msg", content)
        if subshell:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)

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


@pytest.fixture(scope="module")
def front_end(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernel")
    own = {name: str(folder / name) for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    manager, client = start_new_kernel(kernel_name="python3", env=environment | own, cwd=str(folder))
    front_end = FrontEnd(client)
    front_end.run(CELL)
    yield front_end
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(("steps", "timesteps", "in_subshell"), [(2, "999, 499", False), (1, "999", True)])
def test_a_moved_slider_sends_a_new_picture_and_status(front_end, steps, timesteps, in_subshell):
    screen = front_end.find(_anywidget_id=SCREEN)
    before = front_end.models[screen].get("picture", b"")
    subshell = front_end.new_subshell() if in_subshell and SUBSHELLS else None
    front_end.move(front_end.find(_model_name="IntSliderModel", description="steps"), steps, subshell)
    status = front_end.wait_for_status(f"{steps} step")
    assert f" {timesteps} - " in status
    after = front_end.models[screen]["picture"]
    assert after != before
    assert Image.open(io.BytesIO(after)).format == "PNG"
    assert front_end.complaints() == []


def test_an_error_arrives_in_the_status_and_not_as_a_traceback(front_end):
    front_end.move(front_end.find(_model_name="TextareaModel"), "")
    front_end.wait_for_status("prompt is ''; give a text")
    front_end.move(front_end.find(_model_name="TextareaModel"), "a cute fox")
    front_end.wait_for_status("1 step at timestep 999")
    assert front_end.complaints() == []


def test_a_cell_can_wait_for_the_picture(front_end):
    front_end.run("panel.controls['num_inference_steps'].value = 4\nprint(panel.wait(120).timesteps)")
    printed = [m["content"]["text"] for m in front_end.messages if m["msg_type"] == "stream"]
    assert printed[-1] == "[999, 759, 499, 259]\n"
    assert front_end.complaints() == []


def test_the_page_recalls_a_picture_with_its_settings(front_end):
    screen = front_end.find(_anywidget_id=SCREEN)
    history = front_end.models[screen]["history"]
    assert len(history) >= 2
    front_end.ask(screen, do="recall", key=history[-1]["key"])
    front_end.wait_for_status("2 steps at timesteps 999, 499")
    front_end.run("print(panel.values() == panel.result.settings, panel.values()['num_inference_steps'])")
    printed = [m["content"]["text"] for m in front_end.messages if m["msg_type"] == "stream"]
    assert printed[-1] == "True 2\n"
    assert front_end.complaints() == []
