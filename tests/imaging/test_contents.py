"""What every content store promises. Another store is one more entry of `STORES`."""

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.domain.errors import Failure
from darkroom.imaging.contents import ContentStore, LocalContents
from darkroom.imaging.s3_contents import S3Contents
from imaging.watches import ManualWatch

STORES: dict[str, Callable[[pytest.FixtureRequest], ContentStore]] = {
    "local": lambda request: LocalContents(request.getfixturevalue("tmp_path") / "contents"),
    "s3": lambda request: s3_contents(request),
}


def s3_contents(request: pytest.FixtureRequest) -> ContentStore:
    return S3Contents(request.getfixturevalue("calls"), request.getfixturevalue("prefix"))


@pytest.fixture(params=STORES)
def contents(request: pytest.FixtureRequest) -> ContentStore:
    return STORES[request.param](request)


def made(folder: Path, data: bytes, name: str = "made") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def put(contents: ContentStore, content_id: str, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    contents.put(content_id, path, digest, ManualWatch())


def read(contents: ContentStore, content_id: str) -> bytes:
    with contents.open(content_id) as file:
        return file.read()


def test_gives_back_what_was_put(contents: ContentStore, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    path = made(tmp_path, data)
    assert not contents.exists("op1.1")
    with pytest.raises(FileNotFoundError):
        contents.size_bytes("op1.1")
    put(contents, "op1.1", path)
    assert not path.exists()
    assert contents.exists("op1.1")
    assert contents.size_bytes("op1.1") == len(data)
    assert read(contents, "op1.1") == data
    assert list(contents.ids()) == ["op1.1"]


def test_never_overwrites(contents: ContentStore, tmp_path: Path) -> None:
    put(contents, "op1.1", made(tmp_path, b"first"))
    second = made(tmp_path, b"second")
    with pytest.raises(FileExistsError):
        put(contents, "op1.1", second)
    assert read(contents, "op1.1") == b"first"
    assert second.read_bytes() == b"second"


def test_of_many_puts_one_wins(contents: ContentStore, tmp_path: Path) -> None:
    wins: list[int] = []

    def put_one(number: int) -> None:
        path = made(tmp_path, b"%d" % number, f"made{number}")
        try:
            put(contents, "op1.1", path)
        except FileExistsError:
            return
        wins.append(number)

    threads = [threading.Thread(target=put_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert read(contents, "op1.1") == b"%d" % wins[0]


def test_delete_can_be_repeated(contents: ContentStore, tmp_path: Path) -> None:
    put(contents, "op1.1", made(tmp_path, b"data"))
    put(contents, "op2.1", made(tmp_path, b"other"))
    for _ in range(2):
        contents.delete("op1.1")
    assert not contents.exists("op1.1")
    assert list(contents.ids()) == ["op2.1"]
    with pytest.raises(FileNotFoundError):
        read(contents, "op1.1")


def test_an_open_content_stays_what_it_is(contents: ContentStore, tmp_path: Path) -> None:
    put(contents, "op1.1", made(tmp_path, b"data"))
    with contents.open("op1.1") as file:
        contents.delete("op1.1")
        gone = pytest.raises(OSError, match="deleted meanwhile", check=was_stale)
        with gone if isinstance(contents, S3Contents) else contextlib.nullcontext():
            assert file.read() == b"data"


def was_stale(error: OSError) -> bool:
    return error.errno == errno.ESTALE


def test_reads_anywhere(contents: ContentStore, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    put(contents, "op1.1", made(tmp_path, data))
    with contents.open("op1.1") as file:
        assert file.seek(-10, os.SEEK_END) == 99_990
        assert file.read() == data[-10:]
        assert file.seek(5_000) == 5_000
        assert file.read(20_000) == data[5_000:25_000]
        assert file.tell() == 25_000
        assert file.seek(10, os.SEEK_CUR) == 25_010
        assert file.read(1) == data[25_010:25_011]
        assert file.seek(200_000) == 200_000
        assert file.read(1) == b""


def test_lists_everything(contents: ContentStore, tmp_path: Path) -> None:
    expected = {f"op{number}.{number % 3}" for number in range(50)}
    for content_id in expected:
        put(contents, content_id, made(tmp_path, b"x"))
    assert sorted(contents.ids()) == sorted(expected)


@pytest.mark.parametrize(
    "content_id", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0", "a b", "x" * 129, "é"]
)
def test_ids_that_are_none(contents: ContentStore, content_id: str, tmp_path: Path) -> None:
    path = made(tmp_path, b"x")
    with pytest.raises(ValueError, match="not a content id"):
        put(contents, content_id, path)
    with pytest.raises(ValueError, match="not a content id"):
        contents.delete(content_id)
    with pytest.raises(ValueError, match="not a content id"):
        contents.exists(content_id)
    assert path.exists()


def test_an_unknown_content(contents: ContentStore) -> None:
    with pytest.raises(FileNotFoundError):
        read(contents, "op1.1")
    assert list(contents.ids()) == []


# --- the local folder alone -----------------------------------------------------------------------


def test_local_files_are_private_and_immutable(tmp_path: Path) -> None:
    contents = LocalContents(tmp_path / "deep" / "contents")
    put(contents, "op1.1", made(tmp_path, b"x"))
    assert (tmp_path / "deep" / "contents").stat().st_mode & 0o777 == 0o700
    with contents.open("op1.1") as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o400


def test_local_copies_from_another_file_system(tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system")
    contents = LocalContents(tmp_path / "contents")
    path = made(shared_memory, b"data", f"darkroom-{os.getpid()}")
    try:
        put(contents, "op1.1", path)
        assert not path.exists()
        assert read(contents, "op1.1") == b"data"
        assert [entry.name for entry in (tmp_path / "contents").iterdir()] == ["op1.1.qcow2"]
    finally:
        path.unlink(missing_ok=True)


def test_local_lists_and_deletes_what_a_crash_left(tmp_path: Path) -> None:
    contents = LocalContents(tmp_path)
    (tmp_path / "op1.1.part").write_bytes(b"half")
    (tmp_path / "somebody.else").write_bytes(b"?")
    assert list(contents.ids()) == ["op1.1"]
    assert not contents.exists("op1.1")
    contents.delete("op1.1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["somebody.else"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_local_full_disk(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    contents = LocalContents(tmp_path / "contents")
    path = made(tmp_path, b"data")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failure) as caught:
        put(contents, "op1.1", path)
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("STORAGE_FULL", 30.0)
    assert path.exists()
    assert not contents.exists("op1.1")
