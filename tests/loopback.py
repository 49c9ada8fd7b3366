"""A Hub on this computer's own loopback address: the endpoints that the real client asks, and faults on demand."""

import hashlib
import json
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".onnx", ".onnx_data", ".msgpack", ".jpg", ".png")  # under Git LFS


class Hub:
    """Serves ``folder/OWNER/NAME`` and, under ``datasets``, datasets; use it in a ``with``.

    Attributes
    ----------
    url
        For ``HF_ENDPOINT``.
    log
        (method, path, status, bytes sent), in order.
    faults
        Path -> function of the request's handler that may answer it: returns whether it did.
    """

    def __init__(self, folder: Path):
        self.folder, self.log, self.faults = folder, [], {}
        self.hidden: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def fail(self, path: str, answer: Callable[["BaseHTTPRequestHandler"], bool]) -> None:
        """Let requests whose path contains ``path`` be answered by a function first."""
        self.faults[path] = answer

    def mend(self) -> None:
        """Serve everything as it is, and begin a new log."""
        self.faults.clear()
        self.hidden.clear()
        self.log.clear()

    def files(self, repo: str) -> dict[str, Path]:
        """Return the files of a repository that are not hidden."""
        root = self.folder / repo
        found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
        return {name: path for name, path in found.items() if f"{repo}/{name}" not in self.hidden}


@cache
def _etag(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # as git names a file


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            if any(part in path and answer(self) for part, answer in list(hub.faults.items())):
                return
            if path == "/mend":
                hub.mend()
                self.reply(200, b"")
            elif path == "/mark":
                self.reply(200, b"")
            elif path.startswith("/api/"):
                self.api(path.removeprefix("/api/"))
            elif "/resolve/" in path:
                self.file(*path.lstrip("/").split("/resolve/"))
            else:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})

        do_HEAD = do_GET

        def api(self, path: str) -> None:
            kind, owner, name, *rest = [*path.split("/"), "", ""]
            rest = [part for part in rest if part]
            repo = f"{owner}/{name}" if kind == "models" else f"{kind}/{owner}/{name}"
            files = hub.files(repo)
            if not files:
                self.reply(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            elif rest in (["tree", "main"], ["tree", COMMIT]):
                self.json([self.entry(name, file) for name, file in files.items()])
            elif rest[:1] in ([], ["revision"]) and rest[1:] in ([], ["main"], [COMMIT]):
                siblings = [{"rfilename": name} for name in files]
                self.json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
            else:
                self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})

        def entry(self, name: str, file: Path) -> dict:
            size, etag = file.stat().st_size, _etag(file)
            entry = {"type": "file", "path": name, "size": size, "oid": etag[:40]}
            if len(etag) == 64:
                entry["lfs"] = {"oid": etag, "size": size, "pointerSize": 134}
            return entry

        def file(self, repo: str, rest: str) -> None:
            revision, _, name = rest.partition("/")
            file = hub.files(repo).get(name) if revision in ("main", COMMIT) else None
            if file is None:
                code = "EntryNotFound" if revision in ("main", COMMIT) else "RevisionNotFound"
                code = code if hub.files(repo) else "RepoNotFound"
                self.reply(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
                return
            data = file.read_bytes()
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.reply(206 if start else 200, data[start:], headers)

        def json(self, value) -> None:
            self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def reply(self, status: int, body: bytes, headers: dict | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            sent = 0 if self.command == "HEAD" else len(body)
            hub.log.append((self.command, unquote(urlsplit(self.path).path), status, sent))
            if sent:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler
