"""A class on one server, without Ray: the queue, the hall, the door, and notebooks whose pictures come from there."""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter

import httpx
import numpy as np
import pytest
from door import TOKEN, hall_of, mini, serving
from PIL import Image
from test_runtime import Dice, studio_with

import lcm_nb
from lcm_nb.pictures import encode_image
from lcm_nb.protocol import MAX_BODY, Job
from lcm_nb.serving.app import Catalogue, Keys
from lcm_nb.serving.painter import Painter
from lcm_nb.serving.queue import Closing, Full, Gone, Hall, Queue, Ticket
from lcm_nb.studio import Cancelled

# -- the queue --------------------------------------------------------------------------


def served(queue: Queue, count: int) -> list[str]:
    """Let tickets have their turn, one after the other, and return whose they were."""
    users = []
    for _ in range(count):
        ticket = queue.begin()
        users.append(ticket.user)
        queue.leave(ticket)
    return users


def test_users_take_turns_however_much_one_asks():
    queue = Queue()
    for user in ("greedy",) * 6 + ("anna", "ben"):
        queue.join(Ticket(user, ""))
    assert served(queue, 8) == ["greedy", "anna", "ben", *["greedy"] * 5]


def test_who_has_nothing_in_work_goes_first():
    queue = Queue()
    for user in ("anna", "anna", "ben"):
        queue.join(Ticket(user, ""))
    assert [queue.begin().user for _ in range(3)] == ["anna", "ben", "anna"]


def test_a_newer_ticket_of_a_lane_takes_the_place_of_the_older():
    queue, old, other, new = Queue(), Ticket("anna", "panel"), Ticket("ben", ""), Ticket("anna", "panel")
    for ticket in (old, other, new):
        queue.join(ticket)
    assert old.is_replaced and old.turn.is_set() and queue.order() == [new, other]
    assert queue.begin() is new
    newest = Ticket("anna", "panel")
    queue.join(newest)
    assert new.is_replaced and new.turn.is_set(), "the one in work is to end"


def test_lanes_of_other_users_and_panels_are_left_alone():
    queue, first = Queue(), Ticket("anna", "panel")
    for ticket in (first, Ticket("ben", "panel"), Ticket("anna", "another"), Ticket("anna", ""), Ticket("anna", "")):
        queue.join(ticket)
    assert not first.is_replaced and queue.waiting == 5


def test_a_full_queue_takes_nothing_but_what_replaces():
    queue = Queue(most=3, most_each=2)
    panel = Ticket("anna", "panel")
    queue.join(panel)
    queue.join(Ticket("anna", ""))
    with pytest.raises(Full, match="2 pictures wait"):
        queue.join(Ticket("anna", ""))
    queue.join(Ticket("ben", ""))
    with pytest.raises(Full):
        queue.join(Ticket("cleo", ""))
    queue.join(Ticket("anna", "panel"))
    assert panel.is_replaced and queue.waiting == 3


def test_order_foretells_who_begins():
    queue = Queue()
    for user in "aabcabca":
        queue.join(Ticket(user, ""))
    foretold = [ticket.user for ticket in queue.order()]
    assert served(queue, 8) == list("abcabcaa") and Counter(foretold) == Counter("aabcabca")


# -- the hall ---------------------------------------------------------------------------


class Puppet:
    """An artist that draws one step each time that it is told to."""

    def __init__(self, dies_at: int | None = None):
        self.go, self.begun, self.ended, self.dies_at = asyncio.Semaphore(0), [], [], dies_at

    async def is_there(self):
        return self.dies_at is None

    async def draw(self, job):
        self.begun.append(job.settings["name"])
        try:
            for index in range(3):
                if index == self.dies_at:
                    raise Gone
                await self.go.acquire()
                yield {"event": "step", "index": index}
            yield {"event": "picture", "name": job.settings["name"]}
        finally:
            self.ended.append(job.settings["name"])


async def follow(hall, user, name, lane=""):
    """Return the events of a job, without signs of life."""
    job = Job("text-to-image", {"name": name}, lane=lane)
    return [event async for event in hall.draw(user, job) if event["event"] not in ("alive", "queued")]


async def happens(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def test_in_the_hall_the_newest_of_a_lane_wins_within_a_step():
    async def story():
        puppet = Puppet()
        hall = Hall([puppet], beat=30)
        jobs = []
        for name in ("old", "middle", "new"):
            jobs.append(asyncio.create_task(follow(hall, "anna", name, "panel")))
            await asyncio.sleep(0.01)
        first, second = await jobs[0], await jobs[1]
        assert first[-1] == second[-1] == {"event": "replaced"}
        for _ in range(3):
            puppet.go.release()
        assert (await jobs[2])[-1] == {"event": "picture", "name": "new"}
        assert puppet.begun == ["old", "middle", "new"] == puppet.ended, "each ended before the next began"

    asyncio.run(story())


def test_who_leaves_frees_the_artist_at_once_and_who_waits_leaves_the_queue():
    async def story():
        puppet = Puppet()
        hall = Hall([puppet], beat=30)
        first, second, third = (asyncio.create_task(follow(hall, name, name)) for name in ("anna", "ben", "cleo"))
        await happens(lambda: puppet.begun == ["anna"] and hall.queue.waiting == 2)
        second.cancel()
        await happens(lambda: hall.queue.waiting == 1)
        first.cancel()
        await happens(lambda: puppet.begun == ["anna", "cleo"])
        for _ in range(3):
            puppet.go.release()
        assert (await third)[-1]["event"] == "picture"
        assert hall.queue.running == hall.queue.waiting == 0

    asyncio.run(story())


def test_work_of_a_lost_artist_moves_and_no_step_is_told_twice():
    async def story():
        weak, strong = Puppet(dies_at=2), Puppet()
        hall = Hall([weak, strong], beat=0.01)
        for puppet in (weak, strong):
            for _ in range(9):
                puppet.go.release()
        events = await follow(hall, "anna", "fox")
        assert [event.get("index") for event in events] == [0, 1, 2, None] and events[-1]["event"] == "picture"
        assert weak.begun == strong.begun == ["fox"]
        weak.dies_at = None  # it was started again
        await happens(lambda: weak in hall._free)
        both = await asyncio.gather(*(follow(hall, name, name) for name in ("anna", "ben")))
        assert all(events[-1]["event"] == "picture" for events in both) and len(weak.begun) == 2

    asyncio.run(story())


def test_a_job_that_kills_artists_is_given_up():
    async def story():
        hall = Hall([Puppet(dies_at=0) for _ in range(4)], beat=0.01)
        (event,) = await follow(hall, "anna", "poison")
        assert event["event"] == "error" and "stopped several times" in event["message"]

    asyncio.run(story())


def test_a_hall_that_drains_finishes_what_it_has_and_takes_nothing_new():
    async def story():
        puppet = Puppet()
        hall = Hall([puppet], beat=30)
        job = asyncio.create_task(follow(hall, "anna", "fox"))
        await happens(lambda: puppet.begun)
        drained = asyncio.create_task(hall.drain(30))
        await asyncio.sleep(0)
        with pytest.raises(Closing):
            await follow(hall, "ben", "owl")
        for _ in range(3):
            puppet.go.release()
        assert (await job)[-1]["event"] == "picture" and await drained == 0

    asyncio.run(story())


def test_the_place_in_the_queue_is_told_and_a_full_one_says_when_to_come_again():
    async def story():
        puppet = Puppet()
        hall = Hall([puppet], Queue(most=2), beat=0.01)
        tasks = [asyncio.create_task(follow(hall, name, name)) for name in ("anna", "ben")]
        await happens(lambda: puppet.begun)
        places = []
        async with contextlib.aclosing(hall.draw("cleo", Job("text-to-image", {"name": "x"}))) as events:
            async for event in events:
                places.append((event["event"], event["place"]))
                if len(places) == 2:
                    break
            with pytest.raises(Full) as full:
                await follow(hall, "dora", "x")
        assert places == [("queued", 2)] * 2 and full.value.waiting == 2 and full.value.seconds >= 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(story())


def test_thirty_users_who_ask_as_often_as_they_can_are_served_alike():
    async def one(hall, name, counts):
        while counts.total() < 300:
            assert (await follow(hall, name, name, "panel"))[-1]["event"] == "picture"
            counts[name] += 1

    async def story():
        puppet, counts = Puppet(), Counter()
        puppet.go = asyncio.Semaphore(10**6)
        hall = Hall([puppet], beat=30)
        await asyncio.gather(*(one(hall, f"user {number}", counts) for number in range(30)))
        return counts

    counts = asyncio.run(story())
    assert len(counts) == 30 and max(counts.values()) - min(counts.values()) <= 1


# -- the door: what must not come in ------------------------------------------------------


class DicePainter(Painter):
    """A painter whose runtime draws noise, and waits before each step for ``go``, if there is one."""

    def __init__(self):
        super().__init__({}, "mini", "cpu")
        self.dice, self.go, self.begun = Dice(), None, threading.Semaphore(0)
        self.stopped = threading.Semaphore(0)

    def _studio(self, section):
        return studio_with(self.dice, section)

    def draw(self, job, tell):
        def slowly(event):
            if self.go and event["event"] == "step":
                self.begun.release()
                self.go.acquire(timeout=30)
            try:
                tell(event)
            except Cancelled:
                self.stopped.release()
                raise

        super().draw(job, slowly)


SECTIONS = ("text-to-image", "image-to-image", "style-lora", "inpainting")


@pytest.fixture(scope="module")
def dice():
    return DicePainter()


@pytest.fixture(scope="module")
def place(dice):
    """The address of a server that draws noise."""
    hall = hall_of(dice, 2)

    async def ask():
        return {section: await hall.artists[0].about(section) for section in SECTIONS}

    with serving(hall, Catalogue(ask)) as address:
        yield address


def post(place, body, *, token=TOKEN, **headers):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    headers = {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.post(f"{place}/v1/draw", content=content, headers=headers, timeout=60)


def png_of(width: int, height: int, data: bytes = b"") -> str:
    """Return a PNG, in base64, that says to have this size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data or zlib.compress(b"")) + chunk(b"IEND", b"")
    return base64.b64encode(whole).decode()


FOX = {"section": "text-to-image", "settings": {"prompt": "a fox"}}
PICTURE = {"section": "image-to-image", "settings": {"prompt": "a fox"}}
BAD = {
    "no JSON": (b"{'section'", 400, "no JSON"),
    "not UTF-8": (b"\xff\xfe{}", 400, "no JSON"),
    "deep": ("[" * 100_000, 400, "no JSON"),
    "a list": ([1], 400, "JSON object"),
    "a field that is not known": (FOX | {"path": "/etc/passwd"}, 400, "JSON object"),
    "no settings": ({"section": "text-to-image"}, 400, "JSON object"),
    "section of another type": (FOX | {"section": {"a": 1}}, 404, "does not draw"),
    "unknown section": (FOX | {"section": "../../etc"}, 404, "does not draw '../../etc'"),
    "settings of another type": (FOX | {"settings": []}, 400, "settings is"),
    "unknown setting": (FOX | {"settings": {"callback": "x"}}, 400, "no setting 'callback'"),
    "a setting of the client": (FOX | {"settings": {"num_images": 8}}, 400, "no setting 'num_images'"),
    "too many steps": (FOX | {"settings": {"num_inference_steps": 10**9}}, 400, "num_inference_steps is"),
    "a number that is none": (
        b'{"section": "text-to-image", "settings": {"guidance_scale": NaN}}',
        400,
        "guidance_scale",
    ),
    "a text for a number": (FOX | {"settings": {"num_inference_steps": "4"}}, 400, "num_inference_steps is '4'"),
    "a long prompt": (FOX | {"settings": {"prompt": "x" * 2001}}, 400, "2,001 characters"),
    "half a character": (FOX | {"settings": {"prompt": "\ud800"}}, 400, "half a character"),
    "a lane of other signs": (FOX | {"lane": "a\r\nb: c"}, 400, "lane is"),
    "watched of another type": (FOX | {"watched": 1}, 400, "watched is"),
    "a picture that is not asked for": (FOX | {"image": png_of(64, 64)}, 400, "starts from no picture"),
    "no picture": (PICTURE, 400, "image is None"),
    "a path": (PICTURE | {"image": "/etc/passwd"}, 400, "no path and no address"),
    "an address": (PICTURE | {"image": "http://127.0.0.1/a.png"}, 400, "no path and no address"),
    "a file address": (PICTURE | {"image": "file:///etc/passwd"}, 400, "no path and no address"),
    "the image in settings": (
        PICTURE | {"image": png_of(64, 64), "settings": {"image": "/etc/passwd"}},
        400,
        "no setting 'image'",
    ),
    "another format": (PICTURE | {"image": base64.b64encode(b"GIF89a" + bytes(99)).decode()}, 400, "no PNG"),
    "a picture cut short": (PICTURE | {"image": png_of(64, 64)[:40]}, 400, "damaged"),
    "a picture bomb": (PICTURE | {"image": png_of(60_000, 60_000)}, 400, "megapixels"),
    "a thin picture bomb": (PICTURE | {"image": png_of(2**31 - 1, 16)}, 400, "megapixels"),
    "a large body": (b" " * (MAX_BODY + 1), 413, "more than 12 MB"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(place, case, dice):
    body, status, words = BAD[case]
    answer = post(place, body)
    assert answer.status_code == status and words in answer.json()["error"]
    assert "Traceback" not in answer.text and dice.dice.calls == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zlib.compress(bytes(10**7)), ""),  # more pixels than the size says
        (b"no zlib at all", "damaged"),
        (zlib.compress(b"x"), ""),
    ],
)
def test_a_damaged_picture_ends_in_a_sentence_and_the_next_is_drawn(place, data, words):
    answer = post(place, PICTURE | {"image": png_of(64, 64, data)})
    last = json.loads(answer.text.splitlines()[-1])
    assert last["event"] in ("error", "picture") and words in last.get("message", "")
    assert json.loads(post(place, FOX).text.splitlines()[-1])["event"] == "picture"


def test_a_picture_that_does_not_fit_the_model_is_refused(place):
    image = Image.new("RGB", (70, 64))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    answer = post(place, PICTURE | {"image": base64.b64encode(buffer.getvalue()).decode()})
    assert "multiples of 16" in json.loads(answer.text.splitlines()[-1])["message"]


def test_without_a_body_s_length_the_limit_holds_as_well(place):
    def pieces():
        for _ in range(MAX_BODY // 10**6 + 2):
            yield b" " * 10**6

    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        answer = httpx.post(f"{place}/v1/draw", content=pieces(), headers=headers, timeout=60)
    except httpx.HTTPError:
        return  # it hung up on us, which serves as well
    assert answer.status_code == 413


@pytest.mark.parametrize("client", ["x" * 65, "a b", "a;b"])
def test_a_client_s_name_has_limits(place, client):
    assert "X-LCM-Client" in post(place, FOX, X_LCM_Client=client).json()["error"]


@pytest.mark.parametrize("path", ["/v1/draw", "/v1/sections", "/docs", "/openapi.json", "/nothing", "/health/.."])
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer é"])
def test_without_the_token_there_is_no_way_in(place, path, header):
    headers = [] if header is None else [("Authorization", header.encode("latin-1"))]
    assert httpx.get(place + path, headers=headers).status_code == 401


def test_two_tokens_at_once_are_none(place):
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")]
    assert httpx.get(f"{place}/v1/sections", headers=headers).status_code == 401


def test_health_needs_no_token_and_tells_nothing(place):
    answer = httpx.get(f"{place}/health")
    assert answer.status_code == 200 and answer.json() == {"status": "ok"}


def raw(place: str) -> socket.socket:
    host, port = place.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def test_a_header_cannot_be_smuggled_in(place):
    with raw(place) as connection:
        connection.sendall(
            b"GET /v1/sections HTTP/1.1\r\nHost: x\r\nX-LCM-Client: a\r\n b\r\nAuthorization : Bearer "
            + TOKEN.encode()
            + b"\r\n\r\n"
        )
        assert re.match(rb"HTTP/1.1 (400|401)", connection.recv(1000))


def test_a_slow_body_is_given_up(place, monkeypatch):
    monkeypatch.setattr("lcm_nb.serving.app.BODY_SECONDS", 0.3)
    with raw(place) as connection:
        head = f"POST /v1/draw HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        connection.settimeout(60)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_many_idle_connections_let_others_in(place):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with contextlib.ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(raw(place))
            if number % 2:
                connection.sendall(b"POST /v1/draw HT")
        assert json.loads(post(place, FOX).text.splitlines()[-1])["event"] == "picture"


def test_nothing_is_logged_of_a_prompt(place, capfd, caplog):
    post(place, FOX | {"settings": {"prompt": "a secret wish"}})
    post(place, FOX | {"settings": {"prompt": "a secret wish", "seed": -1}})
    assert "secret" not in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize(
    ("lines", "words"),
    [([], "no token"), (["short"], "16 ASCII"), (["a b c"], "16 ASCII"), (["x" * 20, "y" * 20], "need names")],
)
def test_tokens_that_cannot_be_used_are_refused(lines, words):
    with pytest.raises(ValueError, match=words):
        Keys(lines)


def test_each_user_may_have_a_token():
    keys = Keys(["anna " + "a" * 20, "ben " + "b" * 20, ""])
    found = [keys.user(f"Bearer {token}") for token in ("a" * 20, "b" * 20, "c" * 20)]
    assert found == ["anna", "ben", None]


# -- the notebook's side ------------------------------------------------------------------


@pytest.fixture
def far(place, dice):
    dice.dice.calls.clear()
    return lcm_nb.load("text-to-image", server=place, token=TOKEN)


def test_wrong_ways_to_a_server_get_one_sentence(place):
    def load(section="text-to-image", **options):
        return lcm_nb.load(section, **{"server": place, "token": TOKEN} | options)

    with pytest.raises(PermissionError, match="does not know this token; .*LCM_NB_TOKEN"):
        load(token="wrong")
    with pytest.raises(ValueError, match="token is no text of printable"):
        load(token="a\r\nX: y")
    with pytest.raises(ValueError, match=r"does not draw 'controlnet'; it draws: text-to-image, "):
        load("controlnet")
    with pytest.raises(ValueError, match="profile is 'guide'.*draws text-to-image with 'mini'; leave profile out"):
        load(profile="guide")
    with pytest.raises(ValueError, match="device is 'cpu', and the server .* draws"):
        load(device="cpu")
    with pytest.raises(ValueError, match="server is '/etc/passwd'; give its address"):
        load(server="/etc/passwd")
    with pytest.raises(ConnectionError, match="The connection to http://127.0.0.1:9 failed"):
        load(server="http://127.0.0.1:9")
    with pytest.raises(TypeError, match="no argument 'servre'; it takes section, .* server and token"):
        lcm_nb.load("text-to-image", servre=place)
    assert load(profile="mini").section == "text-to-image"


def test_an_older_server_and_no_server_at_all_are_told_apart(place, monkeypatch):
    monkeypatch.setattr("lcm_nb.runtimes.remote.PROTOCOL", 2)
    with pytest.raises(OSError, match="speaks version 1 of the protocol, and this lcm_nb 2; install the same"):
        lcm_nb.load("text-to-image", server=place, token=TOKEN)
    with pytest.raises(OSError, match="answers with status 404|no server of lcm_nb"):
        lcm_nb.load("text-to-image", server=f"{place}/health", token=TOKEN)


def test_a_certificate_that_is_not_trusted_is_told_with_its_remedy(monkeypatch):
    def refuse(*_, **__):
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")

    monkeypatch.setattr(httpx.Client, "get", refuse)
    with pytest.raises(ConnectionError, match="https://school:8000 has a certificate .* set .*SSL_CERT_FILE"):
        lcm_nb.load("text-to-image", server="https://school:8000", token=TOKEN)


def test_the_environment_names_the_server(place, monkeypatch):
    monkeypatch.setenv("LCM_NB_SERVER", place)
    monkeypatch.setenv("LCM_NB_TOKEN", TOKEN)
    assert lcm_nb.load("text-to-image").generate().where.endswith(f"of {place}")
    assert lcm_nb.info()["server"] == place


def test_several_pictures_scales_and_steps_are_as_at_home(place, far, dice):
    told, home = [], studio_with(Dice(), "text-to-image")
    result = far.generate(num_images=2, seed=7, on_step=told.append)
    again = home.generate(num_images=2, seed=7)
    assert all(np.array_equal(one, two) for one, two in zip(result.images, again.images, strict=True))
    assert [(step.picture, step.number, step.timestep) for step in told] == [
        (picture, number, timestep) for picture in (1, 2) for number, timestep in enumerate(result.timesteps, 1)
    ]
    assert told[0].preview().size == (4, 4) and told[-1].preview is None
    styled = lcm_nb.load("style-lora", server=place, token=TOKEN)
    styled.generate(papercut=0.5)
    assert dice.dice.calls[-1].scales == {"papercut": 0.5, "neon": 0.0}


def test_a_picture_is_sent_as_it_was_fitted(place, dice):
    picture = Image.effect_noise((100, 60), 90).convert("RGB")
    studio = lcm_nb.load("image-to-image", server=place, token=TOKEN)
    with pytest.warns(UserWarning, match="fitted from 100 x 60"):
        result = studio.generate(image=picture)
    assert np.array_equal(dice.dice.calls[-1].image, result.source)


def test_what_is_painted_in_a_panel_is_drawn_on_the_server(place, dice):
    panel = lcm_nb.load("inpainting", server=place, token=TOKEN).panel()
    panel.controls["live"].value = False
    panel.controls["image"].paint(1, encode_image(Image.new("RGB", (64, 64), (1, 2, 3))))
    marked = Image.new("L", (64, 64))
    marked.paste(255, (0, 0, 32, 64))
    panel.controls["live"].value = True
    panel.controls["mask_image"].paint(1, encode_image(marked))
    result = panel.wait(60)
    call = dice.dice.calls[-1]
    assert call.image.getpixel((40, 9)) == (1, 2, 3) and np.array_equal(call.mask, marked)
    assert result.where.endswith(f"of {place}") and panel.controls["image"].taken == 1
    panel.close()


def test_what_on_step_raises_stops_the_server_within_a_step(far, dice, monkeypatch):
    monkeypatch.setattr(dice, "go", threading.Semaphore(1))
    with pytest.raises(KeyError, match="enough"):
        far.generate(num_inference_steps=8, on_step=lambda step: {}["enough"])
    for _ in range(6):  # the server hears a moment later that the connection is closed
        dice.go.release()
        if dice.stopped.acquire(timeout=5):
            break
    else:
        pytest.fail("the server drew on")
    monkeypatch.setattr(dice, "go", None)
    assert far.generate(seed=3).seeds == [3]


def test_a_panel_shows_the_newest_and_stops(far, dice, monkeypatch):
    panel = far.panel()
    panel.run()
    assert panel.wait(60).settings["num_inference_steps"] == 4
    monkeypatch.setattr(dice, "go", threading.Semaphore(0))
    for steps in (5, 6, 7):
        panel.controls["num_inference_steps"].value = steps
    for _ in range(60):
        dice.go.release()
    assert panel.wait(60).settings["num_inference_steps"] == 7
    before, dice.go = panel.result, threading.Semaphore(0)
    panel.controls["seed"].value = 99
    assert dice.begun.acquire(timeout=30)
    panel.stop()
    for _ in range(60):
        dice.go.release()
    assert panel.wait(60) is before and panel.status == "Stopped."
    panel.close()


def test_a_sweep_goes_out_at_once_and_a_cell_that_fails_is_named(far, dice, monkeypatch):
    draw, at_once = dice.dice.draw, threading.Barrier(2)  # both artists must be at work

    def fails(call, on_step):
        at_once.wait(30)
        if call.seed == 3:
            raise MemoryError("The GPU's memory does not suffice.")
        return draw(call, on_step)

    monkeypatch.setattr(dice.dice, "draw", fails)
    with pytest.warns(UserWarning, match="seed 3 was not drawn: The GPU's memory does not suffice"):
        grid = far.sweep(seed=[1, 2, 3, 4])
    assert [result and result.seeds for result in grid.results] == [[1], [2], None, [4]]
    assert grid.failed == {2: "The GPU's memory does not suffice."} and grid.image.width > 4 * 64


def test_a_sweep_that_fails_whole_raises(far, dice, monkeypatch):
    def fails(call, on_step):
        raise MemoryError("The GPU's memory does not suffice.")

    monkeypatch.setattr(dice.dice, "draw", fails)
    with pytest.raises(MemoryError, match="does not suffice"):
        far.sweep(seed=[1, 2])


def test_what_goes_wrong_inside_is_one_sentence_without_the_prompt(far, dice, monkeypatch):
    def fails(call, on_step):
        raise RuntimeError(f"could not draw {call.arguments['prompt']}")

    monkeypatch.setattr(dice.dice, "draw", fails)
    with pytest.raises(OSError, match=r"^The server failed \(RuntimeError\)\.$"):
        far.generate()


def test_a_server_that_restarts_is_met_again_and_one_that_is_gone_is_told(dice):
    def hall():
        halls = hall_of(dice)

        async def ask():
            return {"text-to-image": await halls.artists[0].about("text-to-image")}

        return halls, Catalogue(ask)

    with serving(*hall()) as address:
        studio = lcm_nb.load("text-to-image", server=address, token=TOKEN)
        panel = studio.panel()
        panel.run()
        first = panel.wait(60)
    panel.run()
    with pytest.raises(ConnectionError, match=r"The connection to .* failed .*; run again when the server is there"):
        panel.wait(60)
    assert panel.result is first
    with serving(*hall(), port=int(address.rpartition(":")[2])):
        panel.run()
        assert panel.wait(60) is not first and studio.generate().where.endswith(address)
    panel.close()


class Flaky(httpx.BaseTransport):
    """A way to a server that breaks: each answer ends after so many lines."""

    def __init__(self, lines):
        self.lines, self.asked, self.whole = lines, 0, httpx.HTTPTransport()

    def handle_request(self, request):
        answer = self.whole.handle_request(request)
        cut = self.lines[self.asked]
        self.asked += 1
        if cut is None:
            return answer
        answer.read()
        body = b"".join(answer.content.splitlines(keepends=True)[:cut])
        return httpx.Response(answer.status_code, content=body)


@pytest.mark.parametrize(("lines", "drawn"), [([0, None], True), ([0, 0], False), ([1, None], False)])
def test_a_lost_connection_is_tried_once_more_if_nothing_was_drawn(far, lines, drawn, monkeypatch):
    flaky = Flaky(lines)
    monkeypatch.setattr(far.runtime.link._http, "_transport", flaky)
    if drawn:
        assert far.generate(on_step=lambda step: None).seeds == [0]
    else:
        with pytest.raises(ConnectionError, match="ended before the picture was there"):
            far.generate(on_step=lambda step: None)
    assert flaky.asked == (2 if lines[0] == 0 else 1)


# -- the small models ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawing():
    """The address of a server that draws with the small models."""
    with serving(*mini("text-to-image", "controlnet")) as address:
        yield address


def test_pixels_code_and_files_are_those_of_home(drawing, studio, tmp_path):
    far = lcm_nb.load("text-to-image", server=drawing, token=TOKEN)
    settings = {"prompt": "a cute fox", "num_inference_steps": 2, "seed": 5}
    one, other = far.generate(**settings), studio.generate(**settings)
    assert np.array_equal(one.image, other.image) and one.timesteps == other.timesteps
    assert far.code(settings) == studio.code(settings)
    path, home = one.save(tmp_path / "far.png"), other.save(tmp_path / "home.png")
    assert path.read_bytes() == home.read_bytes()
    for again in (lcm_nb.reproduce(path), lcm_nb.reproduce(home, server=drawing, token=TOKEN)):
        assert np.array_equal(again.image, one.image)


def test_edges_and_sweeps_are_those_of_home(drawing):
    far = lcm_nb.load("controlnet", server=drawing, token=TOKEN)
    home = lcm_nb.load("controlnet", profile="mini")
    grids = [each.sweep(seed=[1, 2], num_inference_steps=1) for each in (far, home)]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(*(grid.results for grid in grids)))
    assert np.array_equal(grids[0].image, grids[1].image)


def test_no_torch_is_imported_nor_needed(drawing, environment, tmp_path):
    code = f"""
import sys
asked = []
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "diffusers", "transformers", "accelerate", "peft"):
            asked.append(name)
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent())
import lcm_nb
studio = lcm_nb.load("text-to-image", server={drawing!r}, token={TOKEN!r})
result = studio.generate(seed=5, num_inference_steps=1)
path = result.save({str(tmp_path / "far.png")!r})
panel = studio.panel()
panel.run()
panel.wait(60)
studio.sweep(seed=[1, 2], num_inference_steps=1)
studio.code(dict(seed=3))
lcm_nb.reproduce(path, server={drawing!r}, token={TOKEN!r})
print(asked, panel.result is not None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "[] True\n", done.stderr
    assert os.path.exists(tmp_path / "far.png")
