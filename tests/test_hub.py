"""What can go wrong between the Hub and this computer: one sentence each, and the next try works.

Most of it is the business of what brings files, which needs no torch; what a studio does about it needs it.
"""

import hashlib
import re

import pytest
from guide_hub import answer, environment_of, python
from inside import plan_for
from loopback import COMMIT, Hub

# -- faults -----------------------------------------------------------------------------

TWICE = """
import os, urllib.request
IMPORTS
def attempt():
    ATTEMPT
for _ in range(TRIES):
    try:
        attempt()
    except Exception as error:
        print("ERROR", type(error).__name__, str(error).replace(chr(10), "<newline>"))
if AGAIN:
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/mend")
    attempt()
"""
# How to get there: by what brings files, or by a studio that is loaded and draws.
BRING = ("from inside import bring, plan_for", "print('WHOLE', *bring(plan_for(SECTION).sources))")
DRAW = ("import lcm_nb", "print('DRAWN', *lcm_nb.load(SECTIONOPTIONS).generate(num_inference_steps=1).timesteps)")
UNET = "latent-consistency/lcm-sdxl"
UNET_FILE = "diffusion_pytorch_model.fp16.safetensors"


def status(code: int, times: int = 10**9, **headers: str):
    """Return a fault: answer with a status, so many times."""
    left = [times]

    def answer(handler) -> bool:
        left[0] -= 1
        if left[0] >= 0:
            handler.reply(code, b"{}", {name.replace("_", "-"): value for name, value in headers.items()})
        return left[0] >= 0

    return answer


def cut(then_down: bool):
    """Return a fault: the first download ends half-way; ``then_down``: and the next ones fail."""
    state = {"cut": False}

    def answer(handler) -> bool:
        if handler.command == "HEAD":
            return False
        if state["cut"]:
            if then_down:
                handler.reply(503, b"")
            return then_down
        state["cut"] = True

        def half(code, body, headers=None):
            del handler.reply
            headers = {"Content-Length": str(len(body))} | (headers or {})
            handler.reply(code, body[: len(body) // 2], headers)
            handler.close_connection = True

        handler.reply = half
        return False

    return answer


def flipped(handler) -> bool:
    """Be a fault: the file arrives with one byte changed, in its full length."""
    if handler.command == "GET":

        def wrong(code, body, headers=None):
            del handler.reply  # the next request of this connection gets the class's own again
            handler.reply(code, body[:-1] + bytes([body[-1] ^ 1]), headers)

        handler.reply = wrong
    return False


# what is wrong | the fault: (path, answer), files that are hidden, environment | what the sentence must say
HUBS_FAULTS = {
    "no such repository": (
        dict(fail=(f"/{UNET}", lambda: status(404, X_Error_Code="RepoNotFound"))),
        f"HubError The Hub has no repository {UNET}, or it is private: look at .*; for a private one set HF_TOKEN",
    ),
    "gated repository": (
        dict(fail=(f"/{UNET}", lambda: status(403, X_Error_Code="GatedRepo"))),
        f"HubError {UNET} asks for your consent: agree on .*, then set HF_TOKEN",
    ),
    "token refused": (
        dict(fail=(f"/{UNET}", lambda: status(401, X_Error_Message="Invalid credentials in Authorization header"))),
        f"HubError The Hub refuses access to {UNET}: set HF_TOKEN to a valid token, or unset it",
    ),
    "missing variant": (
        dict(hide=[f"{UNET}/{UNET_FILE}"]),
        f"HubError {UNET} has no variant 'fp16' of diffusion_pytorch_model.safetensors; .*update lcm_nb",
    ),
    "pickles only": (
        dict(section="controlnet", hide=["lllyasviel/sd-controlnet-canny/diffusion_pytorch_model.safetensors"]),
        "HubError lllyasviel/sd-controlnet-canny has its weights only as pickles .diffusion_pytorch_model.bin.*"
        "use a repository with .safetensors files",
    ),
    "500, then success": (dict(fail=(f"/api/models/{UNET}", lambda: status(500, times=1))), ""),
    "too many requests": (
        dict(fail=(f"/api/models/{UNET}", lambda: status(429))),
        f"HubError The Hub limits requests from this address .{UNET}.: wait a few minutes, or set HF_TOKEN",
    ),
    "500 for good": (
        dict(fail=(f"/api/models/{UNET}", lambda: status(500))),
        f"HubError The Hub answers with error 500 for {UNET}; check the connection and try again",
    ),
    "connection cut half-way": (
        dict(fail=(UNET_FILE, lambda: cut(False)), env={"SIMULATE": "small-chunks"}),
        "",
    ),
    "connection cut, then down": (
        dict(fail=(UNET_FILE, lambda: cut(True)), env={"SIMULATE": "small-chunks"}),
        "HubError The Hub (answers with error 503|cannot be reached).*; check the connection and try again: "
        "files that are whole stay",
    ),
    "wrong hash of a small file": (
        dict(fail=(f"{UNET}/resolve/{COMMIT}/config.json", lambda: flipped)),
        f"HubError config.json of {UNET} arrived damaged .hash .*and was deleted; try again",
    ),
    "wrong hash": (
        dict(fail=(f"{UNET}/resolve/{COMMIT}/{UNET_FILE}", lambda: flipped)),
        f"HubError {UNET_FILE} of {UNET} arrived damaged .hash .*and was deleted; try again",
    ),
    "disk too small": (
        dict(env={"SIMULATE": "small-disk"}, again=False),
        "(OSError|HubError) .*are to be downloaded, and .* has 0.00 MB free.*free some, or set HF_HOME",
    ),
    "disk full on the way": (
        dict(env={"SIMULATE": "full-disk"}),
        "HubError The disk is full, at .*; free some space, or set HF_HOME to a folder on a larger disk",
    ),
    "read-only cache": (
        dict(env={"SIMULATE": "read-only"}, again=False),
        "HubError .* cannot be written to, and stabilityai/.* is not all there; set HF_HOME to a folder of yours",
    ),
    "offline, nothing cached": (
        dict(env={"HF_HUB_OFFLINE": "1"}, again=False),
        "HubError stabilityai/stable-diffusion-xl-base-1.0 is not in .*, and HF_HUB_OFFLINE forbids downloads; "
        "unset it, or run `lcm-nb fetch`",
    ),
    "no connection": (
        dict(env={"HF_ENDPOINT": "http://127.0.0.1:9"}, again=False),
        "HubError The Hub cannot be reached .*; check the connection and try again.*use profile='mini'",
    ),
}
STUDIOS_FAULTS = {
    "no such repository": HUBS_FAULTS["no such repository"],  # the Hub's sentence is the studio's
    "no peft": (
        dict(section="style-lora", env={"SIMULATE": "no-peft"}, again=False),
        "(OSError|ImportError) .*LoRAs need the package peft: `pip install peft`, then restart",
    ),
    "GPU memory runs out": (
        dict(env={"SIMULATE": "full-gpu"}, tries=2),
        "MemoryError The GPU's memory does not suffice. Close other programs and kernels*",
    ),
    "too little memory": (
        dict(env={"MEMORY": "1000000000"}, again=False),
        "OSError text-to-image cannot be loaded. .* of memory are needed, and .* has 1.00 GB free: close other",
    ),
    "unknown keyword": (
        dict(options=", varient='fp16'", again=False),
        "TypeError load has no argument 'varient'; it takes section, profile, device, model, runtime, faster, server ",
    ),
}


@pytest.mark.parametrize("name", HUBS_FAULTS)
def test_a_fault_gives_one_sentence_and_the_next_try_brings_all(name, whole_hub, environment, tmp_path):
    again = check(*HUBS_FAULTS[name], BRING, whole_hub, environment_of(whole_hub, tmp_path, environment))
    assert again == ["WHOLE", *plan_for(HUBS_FAULTS[name][0].get("section", "text-to-image")).sources]


@pytest.mark.parametrize("name", STUDIOS_FAULTS)
def test_a_fault_gives_one_sentence_and_the_next_try_draws(name, whole_hub, environment, tmp_path):
    fault, sentence = STUDIOS_FAULTS[name]
    again = check(fault, sentence, DRAW, whole_hub, environment_of(whole_hub, tmp_path, environment))
    assert again == (["DRAWN", "999"] if fault.get("again", True) else [])


def check(fault: dict, sentence: str, way: tuple[str, str], hub: Hub, env: dict[str, str]) -> list[str]:
    """Run into a fault; assert that it gives the sentence, and return what is printed where it is gone."""
    hub.hidden.update(fault.get("hide", ()))
    if "fail" in fault:
        path, make = fault["fail"]
        hub.fail(path, make())
    again, tries = fault.get("again", True), fault.get("tries", 1)
    own = fault.get("env", {})
    own = own | {"SIMULATE": own.get("SIMULATE", "") + " no-waiting"}
    done = python(twice(way, fault, again, tries), env | own)
    lines = done.stdout.splitlines()
    errors = [line.removeprefix("ERROR ") for line in lines if line.startswith("ERROR")]
    assert len(errors) == (tries if sentence else 0), done.stdout + done.stderr
    for error in errors:
        assert re.fullmatch(sentence + ".*", error), error
        assert "<newline>" not in error and len(error) < 400
    if not again and "HubError" in sentence:  # what was in the way was around the process; nothing of it is left
        done = python(twice(way, fault | {"options": ""}, True, 0), env)
        lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    return [] if lines[-1].startswith("ERROR") else lines[-1].split()


def twice(way: tuple[str, str], fault: dict, again: bool, tries: int) -> str:
    """Return code that tries so often, then lets the Hub be mended, and tries once more."""
    imports, attempt = way
    replaced = {"IMPORTS": imports, "ATTEMPT": attempt, "TRIES": str(tries), "AGAIN": str(again)}
    replaced |= {"SECTION": repr(fault.get("section", "text-to-image")), "OPTIONS": fault.get("options", "")}
    code = TWICE
    for word, value in replaced.items():
        code = code.replace(word, value)
    return (
        code
        if "HF_ENDPOINT" not in fault.get("env", {}) or not tries
        else code.replace("urllib.request.urlopen", "str")
    )


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_complete_cache_serves_those_who_may_not_write_to_it(offline, whole_hub, environment, tmp_path):
    """As in a workshop: one person has fetched, all others read."""
    env = environment_of(whole_hub, tmp_path, environment)
    code = "from lcm_nb.cli import main; assert main(['fetch', 'text-to-image']) == 0"
    assert python(code, env).returncode == 0
    code = "import lcm_nb; print(lcm_nb.load('text-to-image').generate(num_inference_steps=1).timesteps)"
    done = python(code, env | {"SIMULATE": "read-only", "HF_HUB_OFFLINE": offline})
    assert done.stdout.splitlines()[-1:] == ["[999]"], done.stderr


BRING_UNET = """
from inside import bring, plan_for
bring({"unet": plan_for("text-to-image").sources["unet"]})
"""


def sent(hub: Hub, name: str) -> list[int]:
    """Return the bytes of each answer that carried a file's content."""
    return [count for method, path, code, count in hub.log if path.endswith(name) and method == "GET" and code < 400]


def test_a_cut_download_goes_on_where_it_stopped(whole_hub, environment, tmp_path):
    size = (whole_hub.folder / UNET / UNET_FILE).stat().st_size
    whole_hub.fail(UNET_FILE, cut(then_down=False))
    done = python(BRING_UNET, environment_of(whole_hub, tmp_path, environment, SIMULATE="small-chunks"))
    assert done.returncode == 0, done.stderr
    first, second = sent(whole_hub, UNET_FILE)
    assert first == size // 2
    assert size <= first + second <= size + 65536  # at most one part of it again


def test_after_an_outage_whole_files_are_not_downloaded_again(whole_hub, environment, tmp_path):
    env = environment_of(whole_hub, tmp_path, environment)
    whole_hub.fail(UNET_FILE, cut(then_down=True))
    assert "files that are whole stay" in python(BRING_UNET, env).stderr
    whole_hub.faults.clear()
    assert python(BRING_UNET, env).returncode == 0
    assert len(sent(whole_hub, "config.json")) == 1


HASHES = """
import json
from pathlib import Path
from inside import bring, plan_for, weight_hashes
source = plan_for("text-to-image").sources["unet"]
folder = bring({"unet": source})["unet"]
SHARE
print(json.dumps(weight_hashes(source, folder.name)))
"""
# As the client does with what several repositories share: the blob becomes a link to a file of another name.
SHARE = """
(file,) = [folder / name for name in source.files]
blob, store = file.resolve(), folder.parents[2] / "blobs" / (64 * "e")
store.parent.mkdir()
blob.rename(store)
blob.symlink_to(store)
bring({"unet": source})
"""


@pytest.mark.parametrize(("share", "simulate"), [("", ""), (SHARE, ""), ("", "no-links")])
def test_hashes_are_those_of_the_files_in_every_kind_of_cache(share, simulate, whole_hub, environment, tmp_path):
    wanted = hashlib.sha256((whole_hub.folder / UNET / UNET_FILE).read_bytes()).hexdigest()
    env = environment_of(whole_hub, tmp_path, environment, SIMULATE=simulate)
    assert answer(python(HASHES.replace("SHARE", share), env)) == [wanted]


def test_a_whole_copy_serves_when_the_hub_refuses(whole_hub, environment, tmp_path):
    env = environment_of(whole_hub, tmp_path, environment)
    assert python(BRING_UNET, env).returncode == 0
    whole_hub.fail(f"/{UNET}", status(401, X_Error_Message="Invalid credentials in Authorization header"))
    done = python(BRING_UNET, env)
    assert done.returncode == 0, done.stderr


def test_colabs_secret_is_read_on_the_main_thread_and_sent(whole_hub, environment, tmp_path):
    tokens = set()
    whole_hub.fail(UNET, lambda handler: tokens.add(handler.headers.get("Authorization")) is not None)
    done = python(BRING_UNET, environment_of(whole_hub, tmp_path, environment, SIMULATE="colab"))
    assert done.returncode == 0, done.stderr
    assert tokens == {"Bearer secret-HF_TOKEN"}
