"""``lcm-nb serve``: what it refuses, its tokens, and, slowly, the whole with Ray."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import psutil
import pytest

import lcm_nb
from lcm_nb import cli
from lcm_nb.serving import server


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["text-to-video"], "no section 'text-to-video'"),
        (["--replicas", "many"], "--replicas is 'many'; give a number from 1, or auto"),
        (["--port", "70000", "--token-file", "token"], "--port 70000"),
        (["--certificate", "class.pem"], "TLS needs both --certificate and --key"),
        (["--certificate", "none.pem", "--key", "none.key"], "no file none.pem"),
        (["--check", "--port", "9"], "The connection to http://127.0.0.1:9 failed"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(options, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_token_file_is_made_for_its_owner_alone_and_read_again(tmp_path):
    path = tmp_path / "token"
    (token,) = server.read_tokens(str(path))
    assert len(token) >= 32 and server.read_tokens(str(path)) == [token]
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="other rights")
def test_a_token_file_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "token"
    server.read_tokens(str(path))
    path.chmod(0o640)
    with pytest.raises(ValueError, match="may be read by others; `chmod 600"):
        server.read_tokens(str(path))


@pytest.mark.parametrize(
    ("order", "address"),
    [
        (server.Order({}), "http://127.0.0.1:8000"),
        (server.Order({}, host="0.0.0.0", port=1, certificate="a", key="b"), "https://127.0.0.1:1"),
        (server.Order({}, host="::1"), "http://[::1]:8000"),
    ],
)
def test_the_door_is_found_from_its_own_machine(order, address):
    assert order.address == address


@pytest.mark.parametrize(
    ("host", "open_"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True), ("gpu", True)]
)
def test_who_listens_to_others_is_told_to_use_tls(host, open_):
    assert server.is_open(host) is open_


# -- with Ray ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_server(tmp_path_factory, environment):
    """A server of the small models, with its address, its token file and what it printed."""
    folder = tmp_path_factory.mktemp("serve")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "lcm_nb.cli", "serve", "text-to-image", "--profile", "mini", "--replicas", "2"]
    command += ["--port", str(port), "--token-file", str(folder / "token")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        while "SIGTERM ends" not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield process, f"http://127.0.0.1:{port}", folder
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(180)


@pytest.mark.slow
def test_it_draws_as_at_home_says_what_to_type_and_checks_itself(ray_server, studio, monkeypatch):
    _, address, folder = ray_server
    token = (folder / "token").read_text().strip()
    far = lcm_nb.load("text-to-image", server=address, token=token)
    assert np.array_equal(far.generate(seed=4).image, studio.generate(seed=4).image)
    assert far.runtime.at_once == 4
    assert f'lcm_nb.load("text-to-image", server="{address}", token="...")' in (folder / "log").read_text()
    assert token not in (folder / "log").read_text()
    with pytest.raises(PermissionError):
        lcm_nb.load("text-to-image", server=address, token="wrong")
    monkeypatch.delenv("LCM_NB_SERVER", raising=False)
    assert (
        cli.main(["serve", "--check", "--port", address[-5:].lstrip(":"), "--token-file", str(folder / "token")]) == 0
    )


@pytest.mark.slow
def test_painters_that_die_are_started_again_and_nobody_notices(ray_server, studio):
    process, address, folder = ray_server
    far = lcm_nb.load("text-to-image", server=address, token=(folder / "token").read_text().strip())
    told, killed = [], []

    def kill(step):
        told.append(step.number)
        if not killed:
            painters = [
                p for p in psutil.Process(process.pid).children(recursive=True) if "painter-" in " ".join(p.cmdline())
            ]
            killed.extend(painters)
            for painter in painters:  # the one that draws, and the one that could go on
                painter.kill()

    grid = far.sweep(seed=[1, 2, 3, 4])
    result = far.generate(seed=7, num_inference_steps=8, on_step=kill)
    assert killed and told == list(range(1, 9))
    assert np.array_equal(result.image, studio.generate(seed=7, num_inference_steps=8).image)
    assert not grid.failed


@pytest.mark.slow
def test_sigterm_lets_pictures_finish_and_takes_no_new_ones(ray_server):
    process, address, folder = ray_server
    far = lcm_nb.load("text-to-image", server=address, token=(folder / "token").read_text().strip())
    begun, results = threading.Event(), []
    drawing = threading.Thread(
        target=lambda: results.append(far.generate(num_inference_steps=50, on_step=lambda step: begun.set()))
    )
    drawing.start()
    assert begun.wait(120)
    process.send_signal(signal.SIGTERM)
    drawing.join(180)
    assert len(results) == 1 and len(results[0].timesteps) == 50
    assert process.wait(180) == 0
    assert "no pictures were left" in (folder / "log").read_text()
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{address}/health")
