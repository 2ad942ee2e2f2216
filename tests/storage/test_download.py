"""Downloads from a server on this machine: whole, broken off and resumed, wrong, absent."""

import time
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from processes import Forked
from unshaken.storage import download as module
from unshaken.storage.download import checksum, download

CONTENT = bytes(range(256)) * 1000
MD5 = md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; sends `limit` bytes at most before it hangs up; knows ranges or does not."""

    limit: int | None = None
    knows_ranges = True
    pause = 0.0
    asked: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        start = int(asked[6:-1]) if asked and self.server.knows_ranges else 0
        if self.path != "/set.tar.gz" or start >= len(CONTENT):
            self.send_error(404 if self.path != "/set.tar.gz" else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        time.sleep(self.server.pause)
        self.wfile.write(CONTENT[start:][: self.server.limit])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_whole(server: Server, tmp_path: Path) -> None:
    path = download(server.url, tmp_path / "new" / "set.tar.gz", MD5)
    assert path == tmp_path / "new" / "set.tar.gz"
    assert path.read_bytes() == CONTENT
    assert checksum(path) == MD5
    assert list(path.parent.iterdir()) == [path]


def test_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(CONTENT)
    assert download((tmp_path / "there").as_uri(), tmp_path / "here", MD5).read_bytes() == CONTENT


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_an_interrupted_one_goes_on(server: Server, tmp_path: Path, knows_ranges: bool) -> None:
    server.knows_ranges = knows_ranges
    server.limit = 100_000
    with pytest.raises(
        ValueError, match=r"broke off after 100000 of 256000 bytes\); try again \(what has arrived is kept\)"
    ):
        download(server.url, tmp_path / "set", MD5)
    assert not (tmp_path / "set").exists()
    server.limit = None
    assert download(server.url, tmp_path / "set", MD5).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_one_interrupted_at_the_very_end(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "set", MD5).read_bytes() == CONTENT


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"md5 {MD5} instead of {'0' * 32}. .* removed; .*at {tmp_path}"):
        download(server.url, tmp_path / "set", "0" * 32)
    assert [file.name for file in tmp_path.iterdir()] == [".set.lock"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_many_at_once(server: Server, tmp_path: Path, knows_ranges: bool) -> None:
    """Twenty times two processes want one archive: every one of them ends with it, whole, and nothing else is left."""
    server.knows_ranges, server.pause = knows_ranges, 0.002

    def ten() -> None:
        for n in range(10):
            download(server.url, tmp_path / str(n) / "set", MD5)

    both = [Forked(ten) for _ in range(2)]
    said = [process.communicate()[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for n in range(10):
        assert [file.name for file in (tmp_path / str(n)).iterdir()] == ["set"]
        assert (tmp_path / str(n) / "set").read_bytes() == CONTENT
    assert len(server.asked) == 10  # each archive was asked for by one of them


def test_a_part_that_is_a_link_is_not_written_through(server: Server, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("all that I have")
    (tmp_path / "set.part").symlink_to(tmp_path / "precious")
    assert download(server.url, tmp_path / "set", MD5).read_bytes() == CONTENT
    assert (tmp_path / "precious").read_text() == "all that I have"


def test_a_server_that_never_ends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    with pytest.raises(ValueError, match="too many for an image set"):
        download(server.url, tmp_path / "set", MD5)


def test_a_wrong_beginning_does_not_stay_in_the_way(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.part").write_bytes(b"something else")
    with pytest.raises(ValueError, match="The file was removed"):
        download(server.url, tmp_path / "set", MD5)
    assert download(server.url, tmp_path / "set", MD5).read_bytes() == CONTENT


def test_no_such_file_and_no_server(server: Server, tmp_path: Path) -> None:
    missing = server.url.replace("set", "other")
    with pytest.raises(ValueError, match=r"cannot download http.*other.tar.gz \(Not Found\); .*put the file at"):
        download(missing, tmp_path / "set", MD5)
    with pytest.raises(ValueError, match=r"cannot download http://127.0.0.1:9/ \(.*refused\)") as error:
        download("http://127.0.0.1:9/", tmp_path / "set", MD5)
    assert "\n" not in str(error.value)
