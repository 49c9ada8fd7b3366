"""The remote runtime: a server draws (docs/serving.md), and this computer needs neither a GPU nor torch."""

import contextlib
import io
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from ..files import shown
from ..models.checkpoints import Checkpoints, Server, guide_checkpoints, mini_checkpoints
from ..models.device import TOKEN
from ..models.plans import VAES, Plan, plan_for
from ..pictures import encode_image, read_image
from ..protocol import MAX_EVENT, PROTOCOL, Event, Job, pack, read_line
from ..sections.section import Section
from .code import plain_code
from .runtime import Call, Drawing, Geometry, OnStep

TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=None)  # seconds; a stream says something twice a second
LOADING = httpx.Timeout(600.0, connect=10.0)  # seconds; a server that has just been started loads its models first
CLIENT = uuid.uuid4().hex  # tells this process from others with the same token
KINDS: Mapping[str, type[Exception]] = {"ValueError": ValueError, "MemoryError": MemoryError}


class Link:
    """The way to a server.

    Parameters
    ----------
    address
        "http://host:port" or "https://host:port".
    token
        What lets in.

    Raises
    ------
    ValueError
        If the address is none, or the token cannot be sent.
    """

    def __init__(self, address: str, token: str):
        parts = urlsplit(address) if isinstance(address, str) else urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"server is {shown(address)}; give its address, e.g. 'https://host:8000'.")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError(
                "token is no text of printable ASCII signs without spaces; take it as the server printed it."
            )
        self.address = address.rstrip("/")
        headers = {"Authorization": f"Bearer {token}", "X-LCM-Client": CLIENT}
        self._http = httpx.Client(
            base_url=self.address, headers=headers, timeout=TIMEOUT, limits=httpx.Limits(max_connections=None)
        )

    def about(self) -> dict[str, Any]:
        """Return what the server says of itself.

        Raises
        ------
        OSError
            If it does not answer, does not know the token, or speaks otherwise; in one sentence.
        """
        try:
            answer = self._http.get("/v1/sections", timeout=LOADING)
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        self._check(answer)
        try:
            found = answer.json()
            known = isinstance(found["sections"], dict) and found["protocol"]
        except (ValueError, KeyError, TypeError):
            raise OSError(f"What answers at {self.address} is no server of lcm_nb; check the address.") from None
        if known != PROTOCOL:
            raise OSError(
                f"The server at {self.address} speaks version {shown(known)} of the protocol, and this lcm_nb "
                f"{PROTOCOL}; install the same lcm_nb on both (there: {shown(found.get('lcm_nb'))})."
            )
        return dict(found)

    def events(self, job: Job) -> Iterator[Event]:
        """Yield the events of a job; closing the iterator ends it on the server, too.

        Raises
        ------
        httpx.HTTPError
            If the connection is lost.
        OSError, ValueError
            If the server refuses; in its sentence.
        """
        with self._http.stream("POST", "/v1/draw", content=pack(job)) as answer:
            if answer.status_code != 200:
                answer.read()
                self._check(answer)
            for text in answer.iter_lines():
                if len(text) > MAX_EVENT:
                    raise OSError(f"The server at {self.address} sends more than a picture can be.")
                with _understood():
                    event = read_line(text)
                yield event

    def _check(self, answer: httpx.Response) -> None:
        """Raise for an answer that is none."""
        if answer.status_code == 200:
            return
        if answer.status_code == 401:
            raise PermissionError(
                f"The server at {self.address} does not know this token; give token=... or set {TOKEN} "
                "to the one that it printed."
            )
        try:
            said = answer.json()["error"]
            told = " ".join(said.split())[:500]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise OSError(
                f"{self.address} answers with status {answer.status_code}, as no server of this lcm_nb does; check the "
                "address, and that both have the same version."
            ) from None
        raise (ValueError if answer.status_code in (400, 404, 413) else OSError)(told)

    def _lost(self, error: Exception) -> ConnectionError:
        why = " ".join(str(error).split()) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in why:
            return ConnectionError(
                f"{self.address} has a certificate that is not trusted here ({why}); check the address, and if the "
                "certificate is the server's own, set the environment variable SSL_CERT_FILE to its PEM file."
            )
        return ConnectionError(f"The connection to {self.address} failed ({why}); run again when the server is there.")

    def draw(self, job: Job, call: Call, on_step: OnStep) -> Drawing:
        """Draw one picture; a connection that is lost before anything was drawn is tried once more."""
        for last in (False, True):
            told: list[int] = []
            try:
                return _follow(self.events(job), call, on_step, told)
            except (httpx.HTTPError, _Unfinished) as error:
                if told or last:
                    raise self._lost(error) from None
            except _Nonsense:
                raise OSError(
                    f"The server at {self.address} says what this lcm_nb does not understand; install the same "
                    "version on both."
                ) from None
        raise AssertionError


class _Unfinished(Exception):
    """The stream ended before its picture."""


class _Nonsense(Exception):
    """The server said what no server of this version says."""


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError):
        raise _Nonsense from None


def _follow(events: Iterator[Event], call: Call, on_step: OnStep, told: list[int]) -> Drawing:
    """Return the drawing at the end of a stream; note in ``told`` the steps on the way."""
    with contextlib.closing(events):  # type: ignore[type-var]
        for event in events:
            call.waiting()
            if event["event"] == "step":
                with _understood():
                    index, timestep = int(event["index"]), int(event["timestep"])
                    seen = (event["preview"], _size(event["size"])) if event["preview"] else None
                told.append(index)
                on_step(index, timestep, seen)
            elif event["event"] == "picture":
                with _understood():
                    image = read_image(event["png"], name="The server's picture")
                    drawing = Drawing(image, bool(event["censored"]), str(event["note"]))
                    rest = [(index, int(at)) for index, at in enumerate(event["timesteps"])][len(told) :]
                for index, timestep in rest:
                    on_step(index, timestep, None)
                return drawing
            elif event["event"] == "replaced":
                raise OSError("A newer run of the same panel took this one's place on the server.")
            elif event["event"] == "error":
                raise KINDS.get(str(event.get("kind")), OSError)(str(event.get("message"))[:500])
    raise _Unfinished("it ended before the picture was there")


def _size(value: object) -> tuple[int, int]:
    """Return the width and height that a hint stands for; a server cannot ask for much memory by them."""
    width, height = value if isinstance(value, list) else (0, 0)
    if not (isinstance(width, int) and isinstance(height, int) and 0 < width <= 4096 and 0 < height <= 4096):
        raise ValueError(shown(value))
    return width, height


class RemoteRuntime:
    """A section of a server as a :class:`~lcm_nb.runtimes.runtime.Runtime`."""

    def __init__(self, section: Section, names: Checkpoints, link: Link, about: Mapping[str, Any]):
        self.section, self.names, self.link = section, names, link
        self.geometry = Geometry(*map(int, about["geometry"]))
        self.can_preview = bool(about["can_preview"])
        self.at_once = 2 * max(int(about["replicas"]), 1)  # one is drawn while the next is on its way

    def draw(self, call: Call, on_step: OnStep) -> Drawing:
        """Have the server draw one picture."""
        image, mask = (None if each is None else encode_image(each) for each in (call.image, call.mask))
        settings = {**call.arguments, **call.scales, "seed": call.seed}
        return self.link.draw(Job(self.section.name, settings, image, call.lane, call.watched, mask), call, on_step)

    def decode(self, latent: tuple[bytes, tuple[int, int]], quick: bool = False) -> Image.Image:
        """Return the hint that the server sent.

        Raises
        ------
        ValueError
            Unless ``quick``: latents themselves stay on the server.
        """
        if not quick:
            raise ValueError("A server sends hints of latents alone; decode with quick=True, or load the section here.")
        content, (width, height) = latent
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as hint:
            return hint.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)

    def code(self, settings: Mapping[str, Any]) -> str:
        """Return plain diffusers code that draws the picture of complete settings where the models are."""
        return plain_code(self.section, self.names, self.geometry, settings)

    def release(self) -> None:
        """Close the connections."""
        self.link._http.close()


def connect(section: str, wanted: Mapping[str, str | None], address: str, token: str) -> tuple[Plan, RemoteRuntime]:
    """Return a section of a server: its plan, and its runtime with the names of its checkpoints.

    Parameters
    ----------
    section
        One that the server draws.
    wanted
        "profile" and "model", where they are asked for; the server's are taken else.
    address, token
        Of the server.

    Raises
    ------
    ValueError
        If the server does not draw what is asked for; the message says what it draws.
    OSError
        If it does not answer, or not as this version does.
    """
    link = Link(address, token)
    sections = link.about()["sections"]
    if section not in sections:
        raise ValueError(
            f"The server at {link.address} does not draw {shown(section)}; it draws: {', '.join(sections)}."
        )
    about = sections[section]
    try:
        for name, value in wanted.items():
            if value is not None and value != about[name]:
                raise ValueError(
                    f"{name} is {shown(value)}, and the server at {link.address} draws {section} with "
                    f"{about[name]!r}; leave {name} out."
                )
        plan = plan_for(section, about["model"])
        return plan, RemoteRuntime(plan.section, _names(plan, about, link.address), link, about)
    except (KeyError, TypeError):
        raise OSError(
            f"The server at {link.address} does not say all that this lcm_nb asks; install the same version on both."
        ) from None


def _names(plan: Plan, about: Mapping[str, Any], address: str) -> Checkpoints:
    server = Server(address, *(about[name] for name in ("device_name", "dtype", "computes", "hashes", "versions")))
    device = about["device"]
    if about["profile"] == "mini":
        names = mini_checkpoints(plan, device, server=server)
    else:
        names = guide_checkpoints(plan, device, server)
        if vae := next((VAES[measure][plan.family] for measure in about["measures"] if measure in VAES), None):
            names = replace(names, vae=vae.repo)
    return replace(names, measures=tuple(about["measures"]), revisions=about["revisions"], runtime=about["runtime"])
