"""A class on one server: ``python -m tests.class_load --seconds 120``; with ``--kill`` a painter dies midway.

``lcm-nb serve`` is started on the loopback address with the small models. Each client drags a slider again and again:
events for a second or two, of which the newest wins, then it waits for its picture. All pictures are compared, to the
bit, with those drawn here. Exit code 1 if one was wrong, a client was stuck, or the server did not end by itself.
"""

import argparse
import hashlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

import lcm_nb
from lcm_nb.runtimes import remote
from lcm_nb.studio import Cancelled, Studio
from lcm_nb.widgets.mailbox import Mailbox

PROMPTS = ("a cute fox in a meadow", "an owl in the snow", "a castle")
SETTINGS = [
    {"prompt": prompt, "num_inference_steps": 4, "seed": seed, "guidance_scale": scale}
    for prompt in PROMPTS
    for seed in range(4)
    for scale in (4.0, 8.0)
]
EVENTS, PAUSES = (5, 15), (0.03, 0.2)  # of a drag: how many events, and seconds between them
PATIENCE = 180.0  # seconds after which a client counts as stuck
SWEEP = 16


def key(settings: dict) -> str:
    """Return what tells settings apart."""
    return str(sorted((name, settings[name]) for name in SETTINGS[0]))


def digest(image) -> str:
    """Return what tells pictures apart."""
    return hashlib.sha256(image.tobytes()).hexdigest()


@dataclass
class Client:
    """A learner who drags a slider."""

    studio: Studio
    chance: random.Random
    latencies: list[float] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    is_stuck: bool = False

    def draw(self, settings: dict, mailbox: Mailbox) -> None:
        """Draw as a panel does: the newest wins, and what is outdated stops."""

        def check(*_):
            if mailbox.outdated():
                raise Cancelled

        try:
            result = self.studio.draw(on_step=check, waiting=check, lane=self.studio._lane, **settings)
            self.pictures.append((key(settings), digest(result.image)))
        except Cancelled:
            pass
        except (OSError, ValueError) as error:
            self.errors.append(str(error))

    def storm(self, end: float) -> None:
        """Drag and wait, drag and wait."""
        mailbox = Mailbox()
        while time.monotonic() < end and not self.is_stuck:
            for _ in range(self.chance.randint(*EVENTS)):
                settings = self.chance.choice(SETTINGS)
                mailbox.post(lambda settings=settings: self.draw(settings, mailbox))
                last = time.monotonic()
                time.sleep(self.chance.uniform(*PAUSES))
            before = len(self.errors)
            self.is_stuck = not mailbox.wait_idle(PATIENCE)
            if not self.is_stuck and len(self.errors) == before:
                self.latencies.append(time.monotonic() - last)
        mailbox.close()


def connect(address: str, token: str) -> Studio:
    """Return a studio that is a user of its own."""
    studio = lcm_nb.load("text-to-image", server=address, token=token)
    studio.runtime.link._http.headers["X-LCM-Client"] = hashlib.sha256(os.urandom(8)).hexdigest()[:32]
    return studio


def own_rate(seconds: float) -> tuple[float, list[float]]:
    """Return pictures a second of one process that draws in a loop, and what each took."""
    code = (
        "import time, lcm_nb; from tests.class_load import SETTINGS\n"
        "studio = lcm_nb.load('text-to-image', profile='mini', server=''); studio.generate(**SETTINGS[0]); took = []\n"
        f"while sum(took) < {seconds}:\n"
        "    start = time.perf_counter(); studio.generate(**SETTINGS[len(took) % len(SETTINGS)])\n"
        "    took.append(time.perf_counter() - start)\n"
        "print(*took)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took = [float(text) for text in done.stdout.split()]
    return len(took) / sum(took), took


def told(values: list[float]) -> str:
    """Return median and 95th percentile."""
    if len(values) < 2:
        return "none"
    return f"median {statistics.median(values):.2f} s, p95 {statistics.quantiles(values, n=20)[-1]:.2f} s"


def kill_painter(server: psutil.Process) -> None:
    """Kill the process of the first painter, as a fault would."""
    painters = [each for each in server.children(recursive=True) if "painter-0" in " ".join(each.cmdline())]
    for each in painters[:1]:
        print(f"killing {each.cmdline()[0]}", flush=True)
        each.kill()


def storms(address: str, token: str, arguments: argparse.Namespace, server: psutil.Process) -> list[Client]:
    """Let all clients storm, and return them."""
    clients = [Client(connect(address, token), random.Random(number)) for number in range(arguments.clients)]
    end = time.monotonic() + arguments.seconds
    threads = [threading.Thread(target=client.storm, args=(end,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    if arguments.kill:
        time.sleep(arguments.seconds / 2)
        kill_painter(server)
    for thread in threads:
        thread.join(arguments.seconds + 2 * PATIENCE)
    for client, thread in zip(clients, threads):
        client.is_stuck |= thread.is_alive()
    return clients


def wrong(clients: list[Client]) -> int:
    """Return how many pictures are not what this process draws."""
    studio, right = lcm_nb.load("text-to-image", profile="mini", server=""), {}
    for settings in SETTINGS:
        right[key(settings)] = digest(studio.generate(**settings).image)
    return sum(right[name] != found for client in clients for name, found in client.pictures)


def report(clients: list[Client], seconds: float, rates: list[float]) -> bool:
    """Print what happened, and return whether something failed."""
    counts = [len(client.pictures) for client in clients]
    rate, own = sum(counts) / seconds, statistics.mean(rates)
    stuck, bad = sum(client.is_stuck for client in clients), wrong(clients)
    print(f"{len(clients)} clients, {seconds:.0f} s: {sum(counts)} pictures, {rate:.2f} a second,")
    print(f"  {rate / own:.2f} of one process's own ({', '.join(f'{each:.2f}' for each in rates)} a second)")
    print(f"last event to picture: {told([t for client in clients for t in client.latencies])}")
    print(f"fairness: {min(counts)} to {max(counts)} pictures a client ({min(counts) / max(max(counts), 1):.2f})")
    print(f"{bad} wrong pictures, {stuck} stuck clients")
    for error, count in Counter(error for client in clients for error in client.errors).most_common():
        print(f"  said {count} times: {error}")
    return bool(bad or stuck)


def alone(address: str, token: str, took: list[float]) -> None:
    """Print what a lone user waits, beside one who draws here."""
    studio, times = connect(address, token), []
    for number in range(40):
        start = time.perf_counter()
        studio.generate(**SETTINGS[number % len(SETTINGS)], on_step=lambda step: None)
        times.append(time.perf_counter() - start)
    print(f"a lone user: {told(times)}; here: {told(took)}")
    start = time.perf_counter()
    studio.sweep(seed=list(range(SWEEP)), num_inference_steps=4)
    print(f"a sweep of {SWEEP}: {time.perf_counter() - start:.2f} s", flush=True)


def start_server(folder: str, port: int, replicas: int) -> tuple[subprocess.Popen, str]:
    """Start ``lcm-nb serve``, or without painters the door alone, and return it with its token, once it draws."""
    token_file, log = Path(folder) / "token", Path(folder) / "log"
    command = [sys.executable, "-m", "lcm_nb.cli", "serve", "text-to-image", "--profile", "mini", "--port", str(port)]
    command += ["--replicas", str(replicas), "--token-file", str(token_file)]
    if not replicas:
        token_file.write_text("a-token-of-the-tests-alone")
        command = [sys.executable, "-m", "tests.door", str(port), token_file.read_text()]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    while "SIGTERM ends" not in log.read_text():
        if server.poll() is not None:
            sys.exit(log.read_text())
        time.sleep(0.5)
    return server, token_file.read_text().strip()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def main() -> int:
    """Start a server, let the class storm, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--replicas", type=int, default=1, help="0: without Ray, door and painter in one process")
    parser.add_argument("--kill", action="store_true", help="kill a painter in the middle")
    arguments = parser.parse_args()
    os.environ["LCM_NB_PROFILE"] = "mini"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of one process, of a painter, and here
    remote.TIMEOUT = httpx.Timeout(PATIENCE, connect=60.0)
    measured = max(arguments.seconds / 6, 5)
    before, took = own_rate(measured)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        server, token = start_server(folder, port, arguments.replicas)
        address = f"http://127.0.0.1:{port}"
        alone(address, token, took)
        start = time.monotonic()
        clients = storms(address, token, arguments, psutil.Process(server.pid))
        seconds = time.monotonic() - start
        server.send_signal(signal.SIGTERM)
        code = server.wait(180)
        print(f"SIGTERM: exit code {code}; {(Path(folder) / 'log').read_text().splitlines()[-1]}", flush=True)
    after, _ = own_rate(measured)
    return int(report(clients, seconds, [before, after]) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
