from __future__ import annotations

import hashlib
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from c2lst.datasets._download import fetch, verify

BODY = np.random.default_rng(0).integers(0, 256, 700_000, dtype=np.uint8).tobytes()
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server:
    """A local server whose habits a test sets; `asked` lists the Range header of each request."""

    def __init__(self):
        self.body, self.ranges, self.break_after, self.status, self.asked = BODY, True, [], 200, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.bin"

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.asked.append(asked)
        if self.status != 200:
            handler.send_error(self.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start >= len(self.body):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        handler.send_header("Content-Length", str(len(self.body) - start))
        handler.end_headers()
        send = self.break_after.pop(0) if self.break_after else None
        handler.wfile.write(self.body[start:] if send is None else self.body[start : start + send])


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_downloads_once(server, tmp_path):
    target = tmp_path / "deep" / "file.bin"
    assert fetch(server.url, target, DIGEST) == target
    assert target.read_bytes() == BODY
    assert [p.name for p in target.parent.iterdir()] == ["file.bin"]
    fetch(server.url, target, DIGEST)
    assert server.asked == [None]


def test_broken_off_download_resumes_by_itself(server, tmp_path):
    server.break_after = [300_000, 100_000]
    target = fetch(server.url, tmp_path / "file.bin", DIGEST)
    assert target.read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-", "bytes=400000-"]


def test_next_call_resumes(server, tmp_path):
    server.break_after = [200_000, 0, 0]
    with pytest.raises(ConnectionError, match="200000 bytes are kept.*call again.*path="):
        fetch(server.url, tmp_path / "file.bin", DIGEST)
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin.part"]
    server.asked.clear()
    assert fetch(server.url, tmp_path / "file.bin", DIGEST).read_bytes() == BODY
    assert server.asked == ["bytes=200000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_server_that_ignores_range(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    assert fetch(server.url, tmp_path / "file.bin", DIGEST).read_bytes() == BODY
    assert server.asked == ["bytes=1000-"]


def test_part_that_is_complete(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY)
    assert fetch(server.url, tmp_path / "file.bin", DIGEST).read_bytes() == BODY


def test_part_of_another_file_is_dropped(server, tmp_path):
    for other in (b"x" * 1000, b"x" * (len(BODY) + 5)):
        (tmp_path / "file.bin").unlink(missing_ok=True)
        (tmp_path / "file.bin.part").write_bytes(other)
        assert fetch(server.url, tmp_path / "file.bin", DIGEST).read_bytes() == BODY


def test_corrupted_source_is_refused_and_not_kept(server, tmp_path):
    server.body = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(ValueError) as error:
        fetch(server.url, tmp_path / "file.bin", DIGEST)
    for part in ("file.bin", DIGEST, hashlib.sha256(server.body).hexdigest()):
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_damaged_cache_is_mended(server, tmp_path, caplog):
    (tmp_path / "file.bin").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "c2lst"):
        assert fetch(server.url, tmp_path / "file.bin", DIGEST).read_bytes() == BODY
    assert "damaged" in caplog.text


def test_answers_of_the_server(server, tmp_path, monkeypatch):
    server.status = 404
    with pytest.raises(ConnectionError, match="answers 404"):
        fetch(server.url, tmp_path / "file.bin", DIGEST)
    assert len(server.asked) == 1
    server.status = 503
    with pytest.raises(ConnectionError, match="503"):
        fetch(server.url, tmp_path / "file.bin", DIGEST)
    assert len(server.asked) == 1 + sys.modules["c2lst.datasets._download"].ATTEMPTS


def test_no_server(tmp_path):
    with pytest.raises(ConnectionError, match="0 bytes are kept"):
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", DIGEST)


def test_verify(tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    verify(tmp_path / "a", DIGEST)
    with pytest.raises(ValueError, match=f"a is not the file.*{DIGEST}, expected {'0' * 64}"):
        verify(tmp_path / "a", "0" * 64)
