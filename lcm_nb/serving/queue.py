"""Who draws next: fair between users, and of each lane the newest alone. Knows no HTTP, no Ray and no torch."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..protocol import BEAT, Event, Job, error_event

MOST, MOST_EACH = 256, 64  # tickets that wait: in all, and of one user
REMEMBERED = 1000  # users whose last turn is remembered
TRIES = 3  # artists that a job may lose before it is given up


class Full(Exception):
    """Too many wait: ``waiting`` of them, and in ``seconds`` there should be room."""

    def __init__(self, waiting: int, seconds: float):
        super().__init__(f"{waiting} pictures wait already; try again in about {max(round(seconds), 1)} s.")
        self.waiting, self.seconds = waiting, max(round(seconds), 1)


class Closing(Exception):
    """The server finishes what it has, and takes nothing new."""


class Gone(Exception):
    """The artist's process is gone, and its picture with it."""


class Artist(Protocol):
    """What draws one picture at a time, here or elsewhere."""

    def draw(self, job: Job) -> AsyncGenerator[Event, None]:
        """Yield a job's steps and its picture; closing it ends the work within a step. Raises ``Gone``."""
        ...

    async def is_there(self) -> bool:
        """Return whether it can draw."""
        ...


@dataclass(eq=False)
class Ticket:
    """A place in the queue; ``turn`` is set when it is its turn, or when it was replaced."""

    user: str
    lane: str
    section: str = ""
    is_replaced: bool = False
    is_running: bool = False
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    artist: Artist | None = None


class Queue:
    """The order in which tickets have their turn.

    The next one is of the user with the fewest pictures in work, among these of the one whose last turn is longest
    ago. A ticket replaces the one of the same user and lane that waits, in its place, and ends the one in work.
    """

    def __init__(self, most: int = MOST, most_each: int = MOST_EACH):
        self._most, self._most_each = most, most_each
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []
        self._turns: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._order: list[Ticket] | None = None

    def join(self, ticket: Ticket) -> None:
        """Let a ticket wait.

        Raises
        ------
        Full
            If too many wait; nothing was replaced then.
        """
        same = [other for other in self._waiting if self._replaces(ticket, other)]
        each = sum(other.user == ticket.user for other in self._waiting)
        if not same and (len(self._waiting) >= self._most or each >= self._most_each):
            raise Full(len(self._waiting), 0)
        for other in (*same, *(other for other in self._running if self._replaces(ticket, other))):
            other.is_replaced = True
            other.turn.set()
        if same:
            self._waiting[self._waiting.index(same[0])] = ticket
        else:
            self._waiting.append(ticket)
        self._order = None

    def rejoin(self, ticket: Ticket) -> None:
        """Let a ticket whose artist is gone wait again, before its user's others."""
        self._running.remove(ticket)
        ticket.is_running = False
        self._waiting.insert(0, ticket)
        self._order = None

    def begin(self) -> Ticket | None:
        """Give the next ticket its turn and return it; None if none waits."""
        if not self._waiting:
            return None
        ticket = self.order()[0]
        self._waiting.remove(ticket)
        self._running.append(ticket)
        ticket.is_running = True
        self._turns.pop(ticket.user, None)
        self._turns[ticket.user] = next(self._numbers)
        if len(self._turns) > REMEMBERED:
            self._turns.pop(next(iter(self._turns)))
        self._order = None
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Forget a ticket, wherever it is."""
        for tickets in (self._waiting, self._running):
            with contextlib.suppress(ValueError):
                tickets.remove(ticket)
        self._order = None

    def order(self) -> list[Ticket]:
        """Return the tickets that wait, the next one first."""
        if self._order is None:
            busy, turns, number = Counter(t.user for t in self._running), dict(self._turns), next(self._numbers)
            rest: dict[str, list[Ticket]] = {}
            for ticket in self._waiting:
                rest.setdefault(ticket.user, []).append(ticket)
            self._order = []
            while rest:
                user = min(rest, key=lambda user: (busy[user], turns.get(user, 0)))
                self._order.append(rest[user].pop(0))
                busy[user], turns[user], number = busy[user] + 1, number, number + 1
                if not rest[user]:
                    del rest[user]
        return self._order

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many are in work."""
        return len(self._running)

    @staticmethod
    def _replaces(ticket: Ticket, other: Ticket) -> bool:
        return bool(ticket.lane) and (ticket.user, ticket.lane) == (other.user, other.lane)


class Hall:
    """Artists, and the queue before them: ``draw`` a job for a user as a stream of events; close it to cancel.

    Parameters
    ----------
    artists
        What draws.
    queue
        The order; it is this hall's alone.
    beat
        Seconds after which a stream says something.
    """

    def __init__(self, artists: Sequence[Artist], queue: Queue | None = None, beat: float = BEAT):
        self.artists, self.queue, self._beat = list(artists), queue or Queue(), beat
        self._free, self._last = list(artists), dict.fromkeys(map(id, artists), "")
        self._seconds = 1.0  # what a picture takes, of late
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def draw(self, user: str, job: Job) -> AsyncGenerator[Event, None]:
        """Yield what happens to a job, up to its picture, its error, or that a newer one replaced it.

        Raises
        ------
        Full, Closing
            Before anything else, if it is not taken.
        """
        if self._closing:
            raise Closing
        ticket, told = Ticket(user, job.lane, job.section), 0
        try:
            self.queue.join(ticket)
        except Full as full:
            raise Full(full.waiting, full.waiting * self._seconds / max(len(self.artists), 1)) from None
        try:
            for _ in range(TRIES):
                async for event in self._wait(ticket):
                    yield event
                try:
                    async with contextlib.aclosing(self._follow(ticket, job)) as events:
                        async for event in events:
                            if event["event"] != "step" or event["index"] >= told:
                                told += event["event"] == "step"  # what a lost artist told is not told again
                                yield event
                    return
                except Gone:
                    self._lose(ticket)
            yield error_event(OSError("What draws stopped several times; try again, or tell who runs the server."))
        finally:
            self._end(ticket)

    async def _wait(self, ticket: Ticket) -> AsyncGenerator[Event, None]:
        """Yield the ticket's place until it has an artist, or was replaced."""
        self._assign()
        while not ticket.turn.is_set():
            place = self.queue.order().index(ticket) + 1
            seconds = self._seconds * -(-place // max(len(self.artists), 1))
            yield {"event": "queued", "place": place, "seconds": round(seconds, 2)}
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ticket.turn.wait(), self._beat)

    async def _follow(self, ticket: Ticket, job: Job) -> AsyncGenerator[Event, None]:
        """Yield what the artist tells, and a sign of life where it is silent."""
        if ticket.is_replaced or ticket.artist is None:
            yield {"event": "replaced"}
            return
        ticket.turn.clear()
        began, told = time.monotonic(), ticket.artist.draw(job)
        turn: asyncio.Future[Any] = asyncio.ensure_future(ticket.turn.wait())
        coming: asyncio.Future[Any] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(told))
                await asyncio.wait({coming, turn}, timeout=self._beat, return_when=asyncio.FIRST_COMPLETED)
                if turn.done():
                    yield {"event": "replaced"}
                    return
                if not coming.done():
                    yield {"event": "alive"}
                    continue
                event, coming = coming.result(), None
                yield event
                if event["event"] in ("picture", "error"):
                    self._seconds += 0.2 * (time.monotonic() - began - self._seconds)
                    return
        except StopAsyncIteration:
            raise Gone from None
        finally:
            turn.cancel()
            if coming:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            with contextlib.suppress(Gone):
                await told.aclose()

    def _assign(self) -> None:
        """Give free artists to those whose turn it is; to each the one that drew the same section last."""
        while self._free and (ticket := self.queue.begin()):
            artist = next((a for a in self._free if self._last[id(a)] == ticket.section), self._free[0])
            self._free.remove(artist)
            self._last[id(artist)] = ticket.section
            ticket.artist = artist
            ticket.turn.set()

    def _end(self, ticket: Ticket) -> None:
        self.queue.leave(ticket)
        if ticket.artist:
            self._free.append(ticket.artist)
        self._assign()

    def _lose(self, ticket: Ticket) -> None:
        """Let a ticket wait for another artist; its own comes back when it can draw again."""
        artist, ticket.artist = ticket.artist, None
        assert artist is not None
        task = asyncio.ensure_future(self._back(artist))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.queue.rejoin(ticket)

    async def _back(self, artist: Artist) -> None:
        while not await artist.is_there():
            await asyncio.sleep(self._beat)
        self._free.append(artist)
        self._assign()

    async def drain(self, seconds: float) -> int:
        """Take nothing new, wait until all is drawn, at most so long, and return how many are left."""
        self._closing = True
        end = time.monotonic() + seconds
        while self.queue.waiting + self.queue.running and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return self.queue.waiting + self.queue.running
