"""Data from a hub that speaks the real protocol on this machine: what is fetched, which commit, and when it is gone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.parquet import ROOT, needs_schemas, write

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
REVISIONS = ("main", "v1", COMMIT)
HUB_ID = "We-Math/We-Math"


class Hub(ThreadingHTTPServer):
    """Serves one folder as a data set repository at one commit, and notes what is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.fetched: list[str] = []
        self.tokens: set[str | None] = set()

    @property
    def files(self) -> dict[str, bytes]:
        return {str(f.relative_to(self.folder)): f.read_bytes() for f in self.folder.rglob("*") if f.is_file()}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.reply()

    def do_GET(self) -> None:
        self.reply()

    def reply(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        info, resolve = f"/api/datasets/{HUB_ID}/revision/", f"/datasets/{HUB_ID}/resolve/"
        if self.path.startswith(info) and self.path.removeprefix(info).split("?")[0] in REVISIONS:
            siblings = [{"rfilename": name} for name in self.server.files]
            self.send(200, json.dumps({"id": HUB_ID, "sha": COMMIT, "siblings": siblings}).encode())
            return
        if self.path.startswith(f"/api/datasets/{HUB_ID}/tree/{COMMIT}"):
            tree = [{"type": "file", "path": k, "size": len(v), "oid": "0"} for k, v in self.server.files.items()]
            self.send(200, json.dumps(tree).encode())
            return
        revision, _, name = self.path.removeprefix(resolve).partition("/")
        if revision in REVISIONS and name in self.server.files:
            if self.command == "GET":
                self.server.fetched.append(name)
            self.send(200, self.server.files[name])
        else:
            self.send(404, b"{}")

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            known = any(f"/{revision}/" in self.path for revision in REVISIONS)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RevisionNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(tmp_path / "repository")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def put(hub: Hub, file: Path) -> None:
    """One problem, in a file of the repository."""
    write(hub.folder / file, "wemath", [{"ID": "2steps_1", "key": "2steps_1", "option": "A. 1; B. 2", "answer": "A"}])


CODE = """
import json, sys
from huggingface_hub import constants
from harness.benchmarks import data
from harness.benchmarks.errors import DataError
from tests.benchmarks.parquet import table
for revision, offline in json.loads(sys.argv[1]):
    constants.HF_HUB_OFFLINE = offline
    data._unreachable.cache_clear()
    made = table("wemath", None, revision=revision)
    try:
        print([item.id for item in made.items()], made.data_id()["commit"])
    except DataError as error:
        print(error)
"""


def asked(hub: Hub, home: Path, *steps: tuple[str, bool]) -> list[str]:
    """Ids and commit, or the error, for each (revision, offline); the client finds its hub when it is imported."""
    places = dict.fromkeys(("HF_HOME", "VTPBENCH_CACHE"), str(home))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    out = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(steps)], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**inherited, **places, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"},
    )  # fmt: skip
    return out.stdout.splitlines()


@needs_schemas
def test_one_split_at_a_known_commit(hub: Hub, tmp_path: Path) -> None:
    put(hub, Path("data/testmini-00000-of-00001.parquet"))
    (hub.folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"gigabytes")
    (hub.folder / "figure.png").write_bytes(b"a figure of the card")
    patterns = "".join(f"  - split: {s}\n    path: data/{s}-*\n" for s in ("testmini", "train"))
    (hub.folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{patterns}---\n")
    steps = [("main", False), ("v1", False), ("main", True), ("v2", False), ("v2", True)]
    first, again, offline, unknown, absent = asked(hub, tmp_path / "home", *steps)
    assert first == again == offline == f"['2steps_1-2steps_1'] {COMMIT}"
    assert sorted(hub.fetched) == ["README.md", "data/testmini-00000-of-00001.parquet"]
    assert hub.tokens == {None}
    assert unknown.startswith(f"wemath needs {HUB_ID} at revision v2 from the hub: 404 ")
    assert absent.startswith(f"wemath needs {HUB_ID} from the hub, which cannot be reached (HF_HUB_OFFLINE=1): ")


@needs_schemas
def test_a_repository_without_a_card(hub: Hub, tmp_path: Path) -> None:
    put(hub, Path("everything.parquet"))
    first, offline = asked(hub, tmp_path / "home", ("main", False), ("main", True))
    assert first == offline == f"['2steps_1-2steps_1'] {COMMIT}"
