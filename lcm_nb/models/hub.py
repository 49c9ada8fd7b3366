"""Bring what a plan names from the Hub to this computer, whole and checked, or say in one sentence why not."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils.sha import git_hash

from ..files import replace
from .plans import PINS, Source, repositories

PAUSES = (0.5, 2.0)  # seconds before the second and the third try
SPARE = 200_000_000  # bytes of the disk that a download leaves free
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
T = TypeVar("T")


class HubError(OSError):
    """What kept a checkpoint from this computer, and the remedy."""


@dataclass(frozen=True)
class Survey:
    """Where one source stands: the commit, and file -> bytes of what is yet to be downloaded."""

    commit: str
    missing: Mapping[str, int]


def bring(sources: Mapping[str, Source], tell: Callable[[str], None] = print) -> dict[str, Path]:
    """Download what is not here yet, check it, and return part -> folder, which is named after its commit.

    Where the connection is cut, the download goes on where it stopped; after an error, whole files
    are not downloaded again. With ``HF_HUB_OFFLINE=1`` no request is made.

    Parameters
    ----------
    sources
        Part -> what it takes from the Hub.
    tell
        Is told in one line what will be downloaded, before it is.

    Raises
    ------
    HubError
        In one sentence: what is wrong with which repository, and what to do.
    """
    get_token()  # Colab's secrets can be read on the main thread alone; the client keeps what it finds
    surveys = {part: _asked(source, partial(_survey, source)) for part, source in sources.items()}
    total = sum(sum(survey.missing.values()) for survey in surveys.values())
    todo = {part: source for part, source in sources.items() if surveys[part].missing}
    if todo:
        names = ", ".join(dict.fromkeys(source.repo for source in todo.values()))
        tell(f"Downloading {gigabytes(total)} to {constants.HF_HUB_CACHE}: {names}")
        if problem := disk_problem(total):
            raise HubError(problem)
    for part, source in todo.items():
        _asked(source, partial(_call, source))
        _check_hashes(source, surveys[part])
    return {part: _local(source, surveys[part].commit) for part, source in sources.items()}


def cached(source: Source) -> bool:
    """Return whether all weights of a source are on this computer; asks nobody."""
    return all(_in_cache(source, file) for file in source.files or source.texts)


def absent(source: Source) -> int:
    """Return the bytes of a source's weights that are not on this computer; asks nobody."""
    return sum(size for file, size in source.sizes.items() if not _in_cache(source, file))


def _in_cache(source: Source, file: str, commit: str | None = None) -> Path | None:
    found = try_to_load_from_cache(source.repo, file, revision=commit or source.revision, repo_type=source.kind)
    return Path(found) if isinstance(found, str) else None


def weight_hashes(source: Source, commit: str) -> list[str]:
    """Return the SHA-256 of each weight file that is here, as the cache has it or computed."""
    paths = filter(None, (_in_cache(source, file, commit) for file in source.files))
    return [known if len(known := _hub_hash(path)) == 64 else _sha256(path) for path in paths]


def _hub_hash(path: Path) -> str:
    """Return the hash by which the Hub knows a file in the cache: where its link leads, in one step.

    It is a SHA-256 for a large file, git's name for a small one, and "" in a cache without links. Further
    links lead into the client's store of what several repositories share, where names are other hashes.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) else ""


@cache
def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_hash(path: Path) -> str:
    """Return git's name of a file, by which the Hub and the client's cache know a small one."""
    return git_hash(path.read_bytes())


def free_disk() -> int:
    """Return the free bytes of the disk that holds the cache."""
    folder = Path(constants.HF_HUB_CACHE)
    return shutil.disk_usage(next(f for f in (folder, *folder.parents) if f.exists())).free


def disk_problem(download: int) -> str:
    """Return in one sentence why so many bytes find no room, "" if they do."""
    free = free_disk()
    if not download or download + SPARE <= free:
        return ""
    return (
        f"{gigabytes(download)} are to be downloaded, and the disk of {cache_folder()} has {gigabytes(free)} free: "
        "free some, or set HF_HOME to a folder on a larger disk and restart."
    )


def pin(path: Path = PINS) -> dict[str, str]:
    """Look up the present commit of every repository of the plans, write them, and return them.

    Raises
    ------
    HubError
        If one cannot be looked up; nothing is written then.
    """
    sources = {repo: Source(repo, "", kind=kind) for repo, kind in repositories().items()}
    commits = {
        repo: str(_asked(source, partial(HfApi().repo_info, source.repo, repo_type=source.kind)).sha)
        for repo, source in sources.items()
    }
    replace(path, f"{json.dumps(commits, indent=1)}\n".encode())
    return commits


def gigabytes(count: int) -> str:
    """Return bytes in words, e.g. "6.94 GB"; 1 GB is 10**9 bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 5e6 else f"{count / 1e6:.2f} MB"


# -- one source -----------------------------------------------------------------------


def _survey(source: Source) -> Survey:
    if constants.HF_HUB_OFFLINE:
        return Survey(_local(source).name, {})
    try:
        with _no_bars():
            files = _call(source, dry_run=True)
    except OSError as error:  # the Hub's own errors are such, too; whatever it says, a whole copy here will do
        return Survey(_local(source, error=error).name, {})
    absent = set(source.files or source.texts) - {file.filename for file in files}
    if absent:
        raise HubError(_what_is_there(source, files[0].commit_hash if files else source.revision, sorted(absent)))
    return Survey(files[0].commit_hash, {file.filename: file.file_size or 0 for file in files if file.will_download})


def _call(source: Source, **options: Any) -> Any:
    """Ask the Hub's client for a source; where a picture lies is too large for a listing of its files."""
    options = {"revision": source.revision, "repo_type": source.kind} | options
    if source.is_picture:
        done = hf_hub_download(source.repo, *source.texts, **options)
        return [done] if options.get("dry_run") else done
    return snapshot_download(source.repo, allow_patterns=list(source.patterns), **options)


def _local(source: Source, commit: str | None = None, error: Exception | None = None) -> Path:
    """Return the folder of the copy on this computer, where it is whole; asks nobody."""
    options = {"revision": commit} if commit else {}
    try:
        found = Path(_call(source, local_files_only=True, **options))
    except OSError:
        found = None
    if source.is_picture and found:
        return found.parents[len(Path(source.texts[0]).parts) - 1]
    if not found or not all((found / file).is_file() for file in source.files):
        raise error or LocalEntryNotFoundError(source.repo)
    return found


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the client's progress bars while it only looks."""
    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _check_hashes(source: Source, survey: Survey) -> None:
    """Compare new files with the hashes that the Hub gave; the client compares sizes only."""
    for name in survey.missing:
        path = _in_cache(source, name, survey.commit)
        wanted = _hub_hash(path) if path else ""  # "" for a cache without links: nothing to compare with
        if not path or not wanted:
            continue
        if (found := _sha256(path) if len(wanted) == 64 else _git_hash(path)) != wanted:
            for file in (path.resolve(), path.parent / os.readlink(path), path):  # the content, and all links to it
                file.unlink(missing_ok=True)
            _sha256.cache_clear()
            raise HubError(
                f"{name} of {source.repo} arrived damaged (hash {found[:10]} instead of {wanted[:10]}) "
                "and was deleted; try again, and if it stays so, try another network."
            )


def _what_is_there(source: Source, commit: str, absent: list[str]) -> str:
    there = HfApi().list_repo_files(source.repo, revision=commit, repo_type=source.kind)
    plain = [name.replace(f".{source.variant}.", ".") for name in absent]
    if source.variant and all(name in there for name in plain):
        return (
            f"{source.repo} has no variant {source.variant!r} of {', '.join(plain)}; the plan is out of date: "
            "update lcm_nb, or report it."
        )
    pickles = [name for name in there if name.endswith(PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in there):
        return (
            f"{source.repo} has its weights only as pickles ({', '.join(pickles)}), which can run any code when they "
            "are opened, so they are not loaded; use a repository with .safetensors files."
        )
    return f"{source.repo} has no file {', '.join(absent)}; the plan is out of date: update lcm_nb, or report it."


# -- errors ---------------------------------------------------------------------------


def _asked(source: Source, ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns; try again where the Hub may recover, else say what is wrong."""
    for pause in (*PAUSES, None):
        try:
            return ask()
        except HubError:
            raise
        except (OSError, HTTPError, RuntimeError) as error:
            if pause is None or not _unreachable(error):
                raise HubError(explain(error, source)) from None
            time.sleep(pause)
    raise AssertionError("not reached")


def _chain(error: BaseException | None) -> list[BaseException]:
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _status(error: BaseException) -> int:
    return getattr(getattr(error, "response", None), "status_code", 0)


def _unreachable(error: BaseException) -> bool:
    """Return whether the network or the Hub failed, rather than the request."""
    chain = _chain(error)
    if any(isinstance(e, OfflineModeIsEnabled) or _refused(_status(e)) or _full(e) or _denied(e) for e in chain):
        return False
    return any(_status(e) >= 500 or isinstance(e, (HTTPError, ConnectionError, TimeoutError)) for e in chain)


def _refused(status: int) -> bool:
    return 400 <= status < 500 and status not in (408, 429)  # a timeout, and too many requests, pass


def _full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _denied(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException, source: Source) -> str:
    """Return in one sentence what kept a source from being downloaded, and what to do."""
    chain = _chain(error)
    for say in (_refusal, _disk_trouble, _no_answer):
        if sentence := say(chain, source):
            return sentence
    found = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"{source.repo} could not be downloaded ({found}); try again."


def _any_is(chain: list[BaseException], *kinds: type) -> bool:
    return any(isinstance(error, kinds) for error in chain)


def _refusal(chain: list[BaseException], source: Source) -> str:
    """Say what the Hub refused, "" where it did not."""
    repo, page = source.repo, f"{constants.ENDPOINT}/{source.repo}"
    statuses = set(map(_status, chain))
    if _any_is(chain, GatedRepoError):
        return f"{repo} asks for your consent: agree on {page}, then set HF_TOKEN to a token of your account."
    if _any_is(chain, RevisionNotFoundError):
        return f"{repo} has no revision {source.revision!r}; run `lcm-nb pin` again, or delete {PINS.name}."
    if _any_is(chain, RepositoryNotFoundError):
        return f"The Hub has no repository {repo}, or it is private: look at {page}; for a private one set HF_TOKEN."
    if statuses & {401, 403}:
        return f"The Hub refuses access to {repo}: set HF_TOKEN to a valid token, or unset it if it has expired."
    if 429 in statuses:
        return (
            f"The Hub limits requests from this address ({repo}): wait a few minutes, or set HF_TOKEN, and try again."
        )
    return ""


def _disk_trouble(chain: list[BaseException], source: Source) -> str:
    """Say why nothing could be written, "" where something could."""
    if any(map(_full, chain)):
        return (
            f"The disk is full, at {constants.HF_HUB_CACHE}; free some space, or set HF_HOME to a folder on a "
            f"larger disk, and try again: files of {source.repo} that are whole stay."
        )
    if any(map(_denied, chain)):
        return (
            f"{constants.HF_HUB_CACHE} cannot be written to, and {source.repo} is not all there; set HF_HOME to a "
            "folder of yours, or let its owner run `lcm-nb fetch`."
        )
    return ""


def _no_answer(chain: list[BaseException], source: Source) -> str:
    """Say why the Hub did not answer, "" where it did."""
    if constants.HF_HUB_OFFLINE or _any_is(chain, OfflineModeIsEnabled):
        return (
            f"{source.repo} is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids downloads; "
            "unset it, or run `lcm-nb fetch` with a connection first."
        )
    if not _any_is(chain, HfHubHTTPError, HTTPError, ConnectionError, TimeoutError):
        return ""
    status = next(filter(None, map(_status, chain)), 0)
    answer = f"answers with error {status}" if status else f"cannot be reached ({type(chain[-1]).__name__})"
    return (
        f"The Hub {answer} for {source.repo}; check the connection and try again: files that are whole stay. "
        "Without one, use profile='mini'."
    )


def cache_folder() -> str:
    """Return the folder of the Hub's cache, with "~" for the home folder."""
    return constants.HF_HUB_CACHE.replace(os.path.expanduser("~"), "~", 1)
