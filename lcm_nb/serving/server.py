"""Ray Serve behind the door: one painter a GPU, or a pair of cores, on one machine or several (``lcm-nb serve``)."""

import asyncio
import contextlib
import ipaddress
import os
import secrets
import signal
import stat
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ..files import read
from ..models.device import resolve_profile
from ..protocol import Event, Job
from ..studio import load
from .app import HEALTH, Catalogue, Facts, Keys, make_app
from .painter import HereArtist, Painter
from .queue import Gone, Hall

APP, CORES = "lcm_nb", 2  # the application's name; cores of a painter without a GPU
STORE = 256 * 2**20  # bytes of Ray's object store: a picture takes one or two million
LOOK, MISSED = 10.0, 6  # seconds between two looks at the door, and how many in vain end the server
DRAIN = 60.0  # seconds in which a server that is told to stop finishes what it has
# Read by Ray when it is imported, and by the processes that it starts.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # painters are what the machine is for; Ray gives way to all else by default
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine starts slowly
    "RAY_raylet_start_wait_time_s": "120",
}


@dataclass(frozen=True)
class Order:
    """What to serve, and where.

    Attributes
    ----------
    sections
        Section -> model, None for the guide's.
    profile, device
        As :func:`lcm_nb.load` takes them.
    replicas
        How many painters; 0 for one a GPU, or one a pair of cores.
    host, port
        Where the door is.
    certificate, key
        PEM files; with them the door speaks TLS.
    cluster
        Address of a running Ray cluster; "" starts Ray on this machine.
    """

    sections: Mapping[str, str | None]
    profile: str | None = None
    device: str | None = None
    replicas: int = 0
    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str = ""
    key: str = ""
    cluster: str = ""

    @property
    def address(self) -> str:
        """The door's address, as it is reached from this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http{'s' if self.certificate else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def check(self) -> None:
        """Refuse what cannot be served.

        Raises
        ------
        ValueError
            With what to do instead.
        """
        if bool(self.certificate) != bool(self.key):
            raise ValueError("TLS needs both --certificate and --key; give both, or neither.")
        for path in filter(None, (self.certificate, self.key)):
            read(path, most=1_000_000, wanted="a PEM file")
        if self.replicas < 0 or not 0 < self.port < 65536:
            raise ValueError(f"--replicas is {self.replicas} and --port {self.port}; give a number from 1 and a port.")


def read_tokens(path: str) -> list[str]:
    """Return the lines of a token file; one that is not there is made, for its owner alone, with a new token.

    Raises
    ------
    ValueError
        If others may read it, or it cannot be read.
    """
    place = Path(path).expanduser()
    with contextlib.suppress(FileExistsError):
        handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(handle, "w") as file:
            file.write(f"{new_token()}\n")
    if os.name == "posix" and stat.S_IMODE(place.stat().st_mode) & 0o077:
        raise ValueError(f"{place} may be read by others; `chmod 600 {place}`, and change the token if they did.")
    return read(place, most=1_000_000, wanted="a token file").decode(errors="replace").splitlines()


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


# -- what runs in Ray -------------------------------------------------------------------


class RayPainter:
    """A painter in a process of its own; Serve starts it again if that dies."""

    def __init__(self, sections: Mapping[str, str | None], profile: str, device: str | None):
        painter = Painter(sections, profile, device)
        for section in list(sections)[: None if profile == "mini" else 1]:
            painter.about(section)  # loaded before anybody waits for it
        self._artist = HereArtist(painter)

    async def is_there(self) -> bool:
        """Return True."""
        return True

    async def about(self, section: str) -> dict[str, Any]:
        """Return what clients ask of a section."""
        return await self._artist.about(section)

    async def draw(self, job: Job) -> AsyncGenerator[Event, None]:
        """Yield a job's steps and its picture."""
        async with contextlib.aclosing(self._artist.draw(job)) as events:
            async for event in events:
                yield event


class RayArtist:
    """A painter somewhere in the cluster as an :class:`~lcm_nb.serving.queue.Artist`."""

    def __init__(self, handle: Any):
        self._handle, self._stream = handle, handle.options(stream=True)

    async def is_there(self) -> bool:
        """Return whether it answers; Serve may be starting it again."""
        with contextlib.suppress(Exception):
            return bool(await asyncio.wait_for(self._call("is_there"), 30))
        return False

    async def about(self, section: str) -> dict[str, Any]:
        """Return what clients ask of a section."""
        return dict(await self._call("about", section))

    async def _call(self, name: str, *arguments: object) -> Any:
        return await getattr(self._handle, name).remote(*arguments)

    async def draw(self, job: Job) -> AsyncGenerator[Event, None]:
        """Yield a job's steps and its picture."""
        from ray.exceptions import RayError

        coming = self._stream.draw.remote(job)
        try:
            async for event in coming:
                yield event
        except RayError:  # what a painter itself raises comes as an event
            raise Gone from None
        finally:
            coming.cancel()


class Door:
    """The deployment that clients reach; its door is made by :func:`_opening` where it runs."""

    app: Any  # Serve's: what the opening returned

    def __init__(self, *painters: Any):
        """Take the painters, so that they are deployed first."""

    async def drain(self, seconds: float) -> int:
        """Take nothing new, wait until all is drawn, and return how many are left."""
        return int(await self.app.state.hall.drain(seconds))


def _opening(names: list[str], sections: list[str], keys: Keys) -> Callable[[], Any]:
    def build() -> Any:
        from ray import serve

        artists = [RayArtist(serve.get_deployment_handle(name, app_name=APP)) for name in names]

        async def ask() -> Facts:
            return {section: await artists[0].about(section) for section in sections}

        return make_app(Hall(artists), keys, Catalogue(ask))

    return build


# -- starting and stopping ----------------------------------------------------------------


def start(order: Order, keys: Keys) -> int:
    """Start Ray, or join its cluster, and serve; return the number of painters once all are there."""
    order.check()
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    if order.cluster:
        ray.init(order.cluster, log_to_driver=False)
    else:
        ray.init("local", include_dashboard=False, object_store_memory=STORE, log_to_driver=False)
    resources = ray.cluster_resources()
    has_gpus = bool(resources.get("GPU")) and not (order.device or "").startswith("cpu")
    seats = int(resources["GPU"]) if has_gpus else max(int(resources["CPU"]) // CORES, 1)
    replicas = order.replicas or seats
    cores = 1 if has_gpus else max(int(resources["CPU"]) // replicas, 1)
    takes = {"num_gpus": int(has_gpus), "num_cpus": cores}
    profile = order.profile or os.environ.get("LCM_NB_PROFILE") or ("guide" if has_gpus else resolve_profile())
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(
            host=order.host,
            port=order.port,
            ssl_certfile=order.certificate or None,
            ssl_keyfile=order.key or None,
            keep_alive_timeout_s=60,
        ),
    )
    names = [f"painter-{number}" for number in range(replicas)]
    kind = serve.deployment(max_ongoing_requests=8, ray_actor_options=takes, graceful_shutdown_timeout_s=5)(RayPainter)
    painters = [kind.options(name=name).bind(dict(order.sections), profile, order.device) for name in names]
    door = serve.ingress(_opening(names, list(order.sections), keys))(Door)
    options = {"max_ongoing_requests": 10_000, "ray_actor_options": {"num_cpus": 0}}
    serve.run(serve.deployment(door, name="Door", **options).bind(*painters), name=APP, route_prefix="/")
    return replicas


def stop(order: Order) -> int:
    """Finish what is being drawn, stop, and return how many pictures were left."""
    import ray
    from ray import serve

    try:
        left = int(serve.get_app_handle(APP).drain.remote(DRAIN).result(timeout_s=DRAIN + 10))
        if order.cluster:
            serve.delete(APP)
        else:
            serve.shutdown()
        return left
    finally:
        ray.shutdown()


def run(order: Order, token_file: str | None) -> None:
    """Serve until a signal, and print what learners need."""
    tokens = read_tokens(token_file) if token_file else [new_token()]
    keys = Keys(tokens)
    try:
        replicas = start(order, keys)
    except (ValueError, OSError):
        raise
    except Exception as error:  # Ray's are of many kinds; among them is what painters could not load
        why = str(error).strip().splitlines()[-1].rstrip(".")
        raise OSError(
            f"The server did not start: {why}. Ray's logs in /tmp/ray say more; try once more if the machine is busy."
        ) from None
    print(check(order.address, tokens[0].split()[-1]))
    if not token_file:
        print(f"The token, shown this once: {tokens[0]}")
    if is_open(order.host) and not order.certificate:
        print("Others read tokens and prompts on the way: give --certificate and --key, or let a proxy speak TLS.")
    print(f"{replicas} {'draws' if replicas == 1 else 'draw'} at once; Ctrl+C or SIGTERM ends.", flush=True)
    wait_for_signal(order.address)
    print("Finishing what is being drawn.", flush=True)
    left = stop(order)
    print(f"Stopped; {left or 'no'} pictures were left.", flush=True)


def wait_for_signal(address: str) -> None:
    """Return at SIGTERM or Ctrl+C.

    Raises
    ------
    OSError
        If the door does not answer any more, so that whatever started the server can start it again.
    """
    told, missed = threading.Event(), 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    while not told.wait(LOOK):
        missed = 0 if _answers(address) else missed + 1
        if missed == MISSED:
            raise OSError(
                f"{address} does not answer any more; Ray's logs in /tmp/ray say why. Start the server again."
            )


def _answers(address: str) -> bool:
    """Return whether the door is there; whose certificate it has is no matter here."""
    try:
        return httpx.get(address + HEALTH, timeout=LOOK, verify=False, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def check(address: str, token: str, section: str | None = None) -> str:
    """Draw one picture through the front door, and return what learners are to type.

    Raises
    ------
    OSError, ValueError
        If it cannot be drawn; in one sentence.
    """
    from ..runtimes.remote import Link

    section = section or next(iter(Link(address, token).about()["sections"]))
    result = load(section, server=address, token=token).generate()
    width, height = result.image.size
    lines = [f"{section}: {width} x {height} pixels in {result.seconds:.2f} s on {result.where}", "Learners type:"]
    return "\n".join([*lines, f'  studio = lcm_nb.load("{section}", server="{address}", token="...")'])


def is_open(host: str) -> bool:
    """Return whether other computers reach this host."""
    with contextlib.suppress(ValueError):
        return not ipaddress.ip_address(host).is_loopback
    return host != "localhost"
