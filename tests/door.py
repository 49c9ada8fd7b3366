"""A server of the mini profile on this computer's own loopback address, without Ray: the door, a hall, and painters."""

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import httpx
import uvicorn

from lcm_nb.serving.app import Catalogue, Keys, make_app
from lcm_nb.serving.painter import HereArtist, Painter
from lcm_nb.serving.queue import Hall

TOKEN = "a-token-of-the-tests-alone"


def hall_of(painter: Painter, artists: int = 1) -> Hall:
    """Return a hall of artists that share a painter."""
    return Hall([HereArtist(painter) for _ in range(artists)])


def mini(*sections: str) -> tuple[Hall, Catalogue]:
    """Return a hall of one artist and what it draws."""
    hall = hall_of(Painter(dict.fromkeys(sections), "mini", "cpu"))

    async def ask():
        return {section: await hall.artists[0].about(section) for section in sections}

    return hall, Catalogue(ask)


@contextlib.contextmanager
def serving(hall: Hall, catalogue: Catalogue, keys: str = TOKEN, port: int = 0) -> Iterator[str]:
    """Serve while the block runs, and give the address."""
    listening = socket.create_server(("127.0.0.1", port))
    app = make_app(hall, Keys(keys.splitlines()), catalogue)
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def main(port: int, token: str) -> None:
    """Serve the small models' text-to-image until SIGTERM."""
    hall, catalogue = mini("text-to-image")
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    with serving(hall, catalogue, token, port) as address:
        httpx.get(f"{address}/v1/sections", headers={"Authorization": f"Bearer {token}"}, timeout=600)
        print("SIGTERM ends", flush=True)
        told.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
