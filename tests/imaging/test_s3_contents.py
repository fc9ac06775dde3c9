"""Contents in object storage that fails: each fault with what becomes of the upload or the read.

Between the store and a real SeaweedFS stands a proxy that breaks what a test tells it to.
"""

import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from content_storage import BUCKET, FaultyProxy, Request, Script, Storage, first
from darkroom.domain.errors import Failure
from darkroom.domain.work import Interrupted
from darkroom.imaging.s3_calls import CallLimits, Calls
from darkroom.imaging.s3_contents import S3Contents
from darkroom.imaging.s3_upload import UploadLimits
from imaging.watches import STOPPED_SECONDS, ManualWatch

MIB = 1 << 20
PART_BYTES = 5 * MIB
DATA = os.urandom(PART_BYTES + 12_345)
DIGEST = hashlib.sha256(DATA).hexdigest()
QUICK = CallLimits(connect_seconds=0.5, silence_seconds=0.5, attempts=8, backoff_seconds=0.01)
IMPATIENT = replace(QUICK, attempts=2)
UPLOAD = UploadLimits(part_bytes=PART_BYTES, connections=2)

MakeContents = Callable[..., S3Contents]


@pytest.fixture(scope="module")
def running_proxy(storage: Storage) -> Iterator[FaultyProxy]:
    with FaultyProxy(storage).running() as running:
        yield running


@pytest.fixture
def proxy(running_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """A proxy that forwards everything, until it is told to begin something else."""
    running_proxy.begin(lambda request: False)
    yield running_proxy
    running_proxy.ended.set()


@pytest.fixture(scope="module")
def calls_of(running_proxy: FaultyProxy) -> Callable[[CallLimits], Calls]:
    """Calls through the proxy, made once for each limits: it takes botocore a while."""
    return functools.cache(lambda limits: running_proxy.storage.calls(running_proxy.port, limits))


@pytest.fixture
def behind(
    proxy: FaultyProxy, calls_of: Callable[[CallLimits], Calls], prefix: str
) -> MakeContents:
    """Makes a store that reaches the storage through the proxy with a script."""

    def make(
        script: Script, limits: CallLimits = QUICK, upload: UploadLimits = UPLOAD
    ) -> S3Contents:
        proxy.begin(script)
        return S3Contents(calls_of(limits), prefix, upload)

    return make


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def direct(calls: Calls, prefix: str) -> S3Contents:
    return S3Contents(calls, prefix, UPLOAD)


def is_part(request: Request) -> bool:
    return request.is_part


def is_completion(request: Request) -> bool:
    return request.is_completion


def is_read(request: Request) -> bool:
    return request.is_read


def always(request: Request) -> bool:
    return True


def stored(contents: S3Contents, content_id: str = "op1.1") -> bytes:
    with contents.open(content_id) as file:
        return file.read()


# --- on the way in --------------------------------------------------------------------------------

IN_PASSING: dict[str, Callable[[Request], None]] = {
    "500": lambda request: request.refuse(500, "InternalError"),
    "503 slow down": lambda request: request.refuse(503, "SlowDown"),
    "429": lambda request: request.refuse(429, "TooManyRequests"),
    "502 that is no XML": lambda request: request.refuse(502, "</not><xml"),
    "reset before the body": lambda request: request.reset(),
    "reset midway": lambda request: request.reset(PART_BYTES // 2),
    "stall before the body": lambda request: request.stall(),
    "stall midway": lambda request: request.stall(PART_BYTES // 2),
    "a flipped bit": lambda request: request.forward(corrupt=True),
    "a lost answer": lambda request: request.forward(lose_answer=True),
    "half an answer": lambda request: request.forward(answer_bytes=60),
}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((is_part, fault) for fault in IN_PASSING),
        (is_completion, "500"),
        (is_completion, "reset before the body"),
        (is_completion, "stall before the body"),
        (is_completion, "a lost answer"),
        (is_completion, "half an answer"),
    ],
)
def test_what_passes_is_tried_again(
    behind: MakeContents,
    direct: S3Contents,
    storage: Storage,
    prefix: str,
    made: Path,
    kind: Callable[[Request], bool],
    fault: str,
) -> None:
    watch = ManualWatch()
    behind(first(kind, IN_PASSING[fault], times=2)).put("op1.1", made, DIGEST, watch)
    assert stored(direct) == DATA
    assert storage.uploads(prefix) == []
    assert not made.exists()
    assert watch.reports[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize(
    ("fault", "reason", "problem"),
    [
        ("500", "CONTENT_STORE_UNAVAILABLE", "it answers InternalError"),
        ("502 that is no XML", "CONTENT_STORE_UNAVAILABLE", "it answers 502"),
        ("reset midway", "CONTENT_STORE_UNAVAILABLE", "the connection broke"),
        ("stall midway", "CONTENT_STORE_UNAVAILABLE", "it does not answer in time"),
        ("a flipped bit", "CONTENT_STORE_UNAVAILABLE", "it answers"),
        ("full", "STORAGE_FULL", "no room"),
        ("forbidden", "CONTENT_STORE_REFUSED", "AccessDenied"),
        ("aborted by somebody", "CONTENT_STORE_UNAVAILABLE", "it lost an upload"),
    ],
)
def test_what_does_not_pass_fails_the_attempt_and_leaves_nothing(
    behind: MakeContents,
    storage: Storage,
    prefix: str,
    made: Path,
    fault: str,
    reason: str,
    problem: str,
) -> None:
    faults = {
        **IN_PASSING,
        "full": lambda request: request.refuse(507, "InsufficientStorage"),
        "forbidden": lambda request: request.refuse(403, "AccessDenied"),
        "aborted by somebody": lambda request: request.refuse(404, "NoSuchUpload"),
    }
    contents = behind(first(is_part, faults[fault], times=99), IMPATIENT)
    with pytest.raises(Failure) as caught:
        contents.put("op1.1", made, DIGEST, ManualWatch())
    failure = caught.value
    assert failure.reason == reason and problem in failure.message
    assert failure.retry_after_seconds
    assert storage.keys(prefix) == storage.uploads(prefix) == []
    assert made.read_bytes() == DATA


def test_somebody_elses_object_is_not_taken_for_its_own(
    behind: MakeContents, direct: S3Contents, storage: Storage, prefix: str, made: Path
) -> None:
    other = made.with_name("other")
    other.write_bytes(b"first")

    def overtaken(request: Request) -> None:
        direct.put("op1.1", other, hashlib.sha256(b"first").hexdigest(), ManualWatch())
        request.forward()

    with pytest.raises(FileExistsError):
        behind(first(is_completion, overtaken)).put("op1.1", made, DIGEST, ManualWatch())
    assert stored(direct) == b"first"
    assert storage.uploads(prefix) == []
    assert made.exists()


def test_a_file_that_is_not_what_was_converted_is_never_published(
    direct: S3Contents, storage: Storage, prefix: str, made: Path
) -> None:
    made.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(Failure) as caught:
        direct.put("op1.1", made, DIGEST, ManualWatch())
    assert caught.value.reason == "CONTENT_DAMAGED"
    assert storage.keys(prefix) == storage.uploads(prefix) == []


@pytest.mark.parametrize("stuck", ["create", "part", "completion"])
def test_a_cancel_is_heard_within_a_second_however_stuck_the_storage_is(
    behind: MakeContents,
    proxy: FaultyProxy,
    direct: S3Contents,
    storage: Storage,
    prefix: str,
    made: Path,
    stuck: str,
) -> None:
    kinds: dict[str, Callable[[Request], bool]] = {
        "create": lambda request: request.target.endswith("?uploads"),
        "part": is_part,
        "completion": is_completion,
    }
    stall = first(kinds[stuck], lambda request: request.stall(MIB), times=99)
    contents = behind(stall, CallLimits())
    watch = ManualWatch()
    outcome: list[BaseException] = []

    def put() -> None:
        try:
            contents.put("op1.1", made, DIGEST, watch)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    assert proxy.stalled.wait(20)
    started = time.monotonic()
    watch.event.set()
    thread.join()
    assert time.monotonic() - started < STOPPED_SECONDS
    assert isinstance(outcome[0], Interrupted)
    assert made.read_bytes() == DATA
    # What the threads that were left behind leave, the collector finds by its name.
    assert set(direct.ids()) <= {"op1.1"}
    direct.delete("op1.1")
    assert storage.keys(prefix) == []


def test_a_trickle_counts_as_a_stall(
    behind: MakeContents, proxy: FaultyProxy, tmp_path: Path
) -> None:
    def trickle(request: Request) -> None:
        for piece in request.body():
            assert piece
            if proxy.ended.wait(0.1):
                return

    data = DATA * 6  # in one part, which is more than the kernel takes off our hands
    made = tmp_path / "larger"
    made.write_bytes(data)
    slow = UploadLimits(len(data), 1, stall_seconds=1.0, min_bytes_per_second=50 * MIB)
    contents = behind(first(is_part, trickle, times=99), CallLimits(), slow)
    watch = ManualWatch()
    with pytest.raises(Failure) as caught:
        contents.put("op1.1", made, hashlib.sha256(data).hexdigest(), watch)
    assert caught.value.reason == "CONTENT_STORE_UNAVAILABLE"
    assert "too slowly" in caught.value.message
    assert 0 < watch.reports[-1][0] < len(data), "progress is seen inside of a part"


def test_parts_are_bounded_and_progress_is_in_bytes(behind: MakeContents, tmp_path: Path) -> None:
    """No more of the file is on its way, or in memory, than the limits say."""
    data = DATA * 4
    made = tmp_path / "larger"
    made.write_bytes(data)
    lock = threading.Lock()
    at_once, most, lengths = 0, 0, []

    def count(request: Request) -> bool:
        nonlocal at_once, most
        if not request.is_part:
            return False
        with lock:
            at_once += 1
            most = max(most, at_once)
            lengths.append(request.body_bytes)
        request.forward()
        with lock:
            at_once -= 1
        return True

    watch = ManualWatch()
    behind(count).put("op1.1", made, hashlib.sha256(data).hexdigest(), watch)
    assert most <= UPLOAD.connections
    assert sorted(lengths) == [4 * 12_345, *[PART_BYTES] * 4]
    assert {total for _, total in watch.reports} == {len(data)}
    assert all(0 <= done <= len(data) for done, _ in watch.reports)


def test_without_part_checksums_for_storages_that_know_none(
    proxy: FaultyProxy, prefix: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []

    def note(request: Request) -> bool:
        heads.append(request.head.lower())
        return False

    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    proxy.begin(note)
    contents = S3Contents(proxy.storage.calls(proxy.port), prefix, UPLOAD)
    contents.put("op1.1", made, DIGEST, ManualWatch())
    assert stored(contents) == DATA
    assert heads and not any(b"x-amz-checksum" in head for head in heads)


# --- on the way out -------------------------------------------------------------------------------

OUT_PASSING: dict[str, Callable[[Request], None]] = {
    "500": lambda request: request.refuse(500, "InternalError"),
    "503 slow down": lambda request: request.refuse(503, "SlowDown"),
    "reset": lambda request: request.reset(),
    "cut off midway": lambda request: request.forward(answer_bytes=3 * MIB),
    "stall midway": lambda request: request.forward(answer_bytes=3 * MIB, then_stall=True),
}


@pytest.mark.parametrize("fault", OUT_PASSING)
def test_reading_goes_on_where_it_broke(
    behind: MakeContents, direct: S3Contents, made: Path, fault: str
) -> None:
    direct.put("op1.1", made, DIGEST, ManualWatch())
    assert stored(behind(first(is_read, OUT_PASSING[fault], times=2))) == DATA


def test_reading_gives_up_in_the_end(behind: MakeContents, direct: S3Contents, made: Path) -> None:
    direct.put("op1.1", made, DIGEST, ManualWatch())
    contents = behind(first(is_read, OUT_PASSING["reset"], times=99), IMPATIENT)
    with pytest.raises(Failure) as caught:
        stored(contents)
    assert caught.value.reason == "CONTENT_STORE_UNAVAILABLE"


def test_an_object_that_was_replaced_is_not_read_as_the_first(
    direct: S3Contents, storage: Storage, prefix: str, made: Path
) -> None:
    direct.put("op1.1", made, DIGEST, ManualWatch())
    with direct.open("op1.1") as file:
        (key,) = storage.keys(prefix)
        storage.client.put_object(Bucket=BUCKET, Key=key, Body=DATA[::-1])
        with pytest.raises(OSError, match="deleted meanwhile"):
            file.read()


# --- what is listed and deleted -------------------------------------------------------------------


def test_half_an_upload_is_listed_and_deleted_but_is_no_content(
    direct: S3Contents, storage: Storage, prefix: str, made: Path
) -> None:
    client = storage.client
    for name in ("op1.1.qcow2", "op1.1.qcow2.more", "somebody.else", "deep/op9.1.qcow2"):
        client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/{name}")
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}.txt", Body=b"?")
    direct.put("op2.1", made, DIGEST, ManualWatch())
    assert sorted(direct.ids()) == ["op1.1", "op2.1"]
    assert not direct.exists("op1.1")
    direct.delete("op1.1")
    assert list(direct.ids()) == ["op2.1"]
    assert len(storage.uploads(prefix)) == 3
    direct.delete("op2.1")
    assert len(storage.keys(prefix)) == 4


def test_two_installations_share_a_bucket_by_prefix(calls: Calls, prefix: str, made: Path) -> None:
    one, other = (S3Contents(calls, f"{prefix}/{name}", UPLOAD) for name in ("one", "one-more"))
    one.put("op1.1", made, DIGEST, ManualWatch())
    assert list(one.ids()) == ["op1.1"]
    assert list(other.ids()) == []


class ShortPages(Calls):
    """Calls whose listings come three names at a time."""

    def ask(
        self, action: str, stop: threading.Event | None = None, **parameters: Any
    ) -> dict[str, Any]:
        most = {"list_objects_v2": "MaxKeys", "list_multipart_uploads": "MaxUploads"}
        return super().ask(action, stop, **{most[action]: 3}, **parameters)


def test_long_listings_are_followed_to_their_end(storage: Storage, prefix: str) -> None:
    client = storage.client
    whole = [f"op{number}.1" for number in range(7)]
    half = [f"{name}x" for name in whole]
    for name in whole:
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}.qcow2", Body=b"x")
    for name in half:
        client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/{name}.qcow2")
    with storage.in_environment():
        contents = S3Contents(ShortPages(BUCKET), prefix)
    assert sorted(contents.ids()) == sorted(whole + half)
