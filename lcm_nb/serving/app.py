"""The door: HTTP before a hall of artists, with a token on every route but health. Knows no Ray and no torch."""

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..files import shown
from ..models.plans import plan_for
from ..protocol import MAX_BODY, NAME, PROTOCOL, Job, UnknownSection, line, unpack
from ..settings import Setting
from .queue import Closing, Full, Hall

BODY_SECONDS = 30.0  # for a request's body to come
HEALTH = "/health"
Facts = Mapping[str, Mapping[str, Any]]


class Keys:
    """Who may come in: one token for all, or each user's own.

    Parameters
    ----------
    lines
        "TOKEN", or one "NAME TOKEN" a user.

    Raises
    ------
    ValueError
        If there is none, one is short, or the form is another.
    """

    def __init__(self, lines: Iterable[str]):
        self._users: list[tuple[bytes, str]] = []
        for number, text in enumerate(filter(None, map(str.strip, lines)), 1):
            words = text.split()
            if len(words) > 2 or len(words[-1]) < 16 or not words[-1].isascii():
                raise ValueError(
                    f"Token {number} is none that can be used; give lines of TOKEN or NAME TOKEN, a token with at "
                    "least 16 ASCII signs."
                )
            self._users.append((_digest(words[-1]), words[0] if len(words) == 2 else ""))
        if not self._users:
            raise ValueError("There is no token; give at least one.")
        if len(self._users) > 1 and not all(name for _, name in self._users):
            raise ValueError("Several tokens need names: give lines of NAME TOKEN.")

    def user(self, header: str) -> str | None:
        """Return whose token an Authorization header has, "" for one that all share, None for none."""
        scheme, _, token = header.partition(" ")
        given, found = _digest(token), None
        for digest, name in self._users:  # all of them: the time says nothing
            if secrets.compare_digest(digest, given):
                found = name
        return found if scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class Catalogue:
    """What the artists draw; asked of them once.

    Parameters
    ----------
    ask
        Returns section -> what clients ask of it (:meth:`lcm_nb.serving.painter.Painter.about`).
    """

    def __init__(self, ask: Callable[[], Awaitable[Facts]]):
        self._ask, self._lock = ask, asyncio.Lock()
        self._facts: Facts | None = None
        self.settings: dict[str, dict[str, Setting]] = {}

    async def facts(self) -> Facts:
        """Return section -> facts, once they are there."""
        async with self._lock:
            if self._facts is None:
                facts = await self._ask()
                self.settings = {section: _settings(section, about) for section, about in facts.items()}
                self._facts = facts
        return self._facts


def _settings(section: str, about: Mapping[str, Any]) -> dict[str, Setting]:
    plan = plan_for(section, about["model"])
    styles = plan.section.styles if about["profile"] == "mini" else plan.styles
    return dict(plan.model.settings_in(plan.section, styles))


def make_app(hall: Hall, keys: Keys, catalogue: Catalogue) -> FastAPI:
    """Return the door of a hall; its state has the hall, for whoever drains it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.hall = hall
    app.add_middleware(_Guard, keys=keys)

    @app.get(HEALTH)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/sections")
    async def sections() -> dict[str, Any]:
        facts = {name: {**about, "replicas": len(hall.artists)} for name, about in (await catalogue.facts()).items()}
        return {"protocol": PROTOCOL, "lcm_nb": version("lcm_nb"), "sections": facts}

    @app.post("/v1/draw")
    async def draw(request: Request) -> Response:
        client = request.headers.get("x-lcm-client", "")
        if client and not NAME.fullmatch(client):
            return refusal(400, f"X-LCM-Client is {shown(client)}; give at most 64 of a-z, A-Z, 0-9, _ and -.")
        try:
            body = await _body(request)
            await catalogue.facts()
            job = unpack(body, catalogue.settings)
        except UnknownSection as error:
            return refusal(404, str(error))
        except _TooLarge as error:
            return refusal(413, str(error), Connection="close")
        except TimeoutError:
            return refusal(408, f"The request did not come within {BODY_SECONDS:g} s.", Connection="close")
        except ValueError as error:
            return refusal(400, str(error))
        return Drawn(hall, request.scope["lcm_user"] or f"client {client}", job)

    return app


class _TooLarge(ValueError):
    """A body of too many bytes."""


async def _body(request: Request) -> bytes:
    """Return a request's body, within limits of size and time."""
    told = request.headers.get("content-length", "0")
    too_large = _TooLarge(f"The request has more than {MAX_BODY // 10**6} MB; send a smaller picture.")
    if not re.fullmatch(r"\d{1,12}", told) or int(told) > MAX_BODY:
        raise too_large
    parts, size = [], 0
    async with asyncio.timeout(BODY_SECONDS):
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY:
                raise too_large
            parts.append(part)
    return b"".join(parts)


def refusal(status: int, why: str, **headers: str) -> JSONResponse:
    """Return an answer that says in a sentence why not."""
    return JSONResponse({"error": why}, status, {name.replace("_", "-"): value for name, value in headers.items()})


class _Guard:
    """Lets nobody pass without a token, but to the health route."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != HEALTH:
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            user = self._keys.user(given[0].decode("latin-1")) if len(given) == 1 else None
            if user is None:
                answer = refusal(401, "This token is not known here.", WWW_Authenticate="Bearer")
                await answer(scope, receive, send)
                return
            scope = {**scope, "lcm_user": user}
        elif scope["type"] == "websocket":
            return
        await self._app(scope, receive, send)


class Drawn(Response):
    """The events of a job as lines of JSON; a client that leaves ends the work within a step."""

    def __init__(self, hall: Hall, user: str, job: Job):
        super().__init__(media_type="application/x-ndjson")
        self._hall, self._user, self._job = hall, user, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the last one, or until the client has left."""
        sending = asyncio.ensure_future(self._send(scope, receive, send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not sending.done():
                sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await sending

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with contextlib.aclosing(self._hall.draw(self._user, self._job)) as events:
                first = await anext(events)
                head = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                await send({"type": "http.response.body", "body": line(first), "more_body": True})
                async for event in events:
                    await send({"type": "http.response.body", "body": line(event), "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Full as full:
            await refusal(429, str(full), Retry_After=str(full.seconds))(scope, receive, send)
        except Closing:
            why = "The server is being stopped; try again when it is back."
            await refusal(503, why, Retry_After="30")(scope, receive, send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
