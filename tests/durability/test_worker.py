"""The worker's loop against a real store, with work that a test scripts."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from darkroom.domain import errors
from darkroom.domain.errors import Code
from darkroom.domain.ids import new_id
from darkroom.domain.operation import IMAGE_CREATE, Claim, Operation, State
from darkroom.domain.work import Interrupted, Reason
from darkroom.imaging.contents import LocalContents
from darkroom.operations.desk import Begun, Caller, Opening, Operations
from darkroom.operations.running import PhasedWatch, Publish
from darkroom.storage.port import Transaction
from darkroom.storage.sqlite import SqliteStore
from darkroom.worker import worker as worker_module
from darkroom.worker.attempt import LeaseSettings
from darkroom.worker.collector import Collector
from darkroom.worker.worker import MAX_ATTEMPTS, Worker
from store.rows import insert_operation

Script = Callable[[Claim, PhasedWatch], Publish]
PATIENCE_SECONDS = 10.0


class ScriptedRunner:
    """Runs what the test says; remembers what the worker asked of it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.told: list[str] = []

    def run(self, claim: Claim, watch: PhasedWatch) -> Publish:
        self.told.append("run")
        return self.script(claim, watch)

    def clean(self, claim: Claim) -> None:
        self.told.append("clean")

    def abandon(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        self.told.append("abandon")

    def fail(self, tx: Transaction, operation: Operation, payload: dict[str, Any]) -> None:
        self.told.append("fail")


class Nothing:
    """A command that leaves an operation for a worker and touches nothing else."""

    kind: ClassVar[str] = IMAGE_CREATE

    def identity(self) -> dict[str, Any]:
        return {}

    def begin(self, tx: Transaction, opening: Opening) -> Begun:
        return Begun(opening.operation(self.kind, "folder", new_id()))


class Bench:
    """A store, a worker in a thread and the front desk, all on one script."""

    def __init__(self, folder: Path, script: Script) -> None:
        self.store = SqliteStore(folder / "metadata.sqlite", lease_seconds=1.0)
        self.store.migrate()
        self.runner = ScriptedRunner(script)
        (folder / "scratch").mkdir()
        contents = LocalContents(folder / "contents")
        self.worker = Worker(
            self.store,
            {IMAGE_CREATE: self.runner},
            Collector(self.store, contents, folder / "scratch"),
            "tester",
            lease=LeaseSettings(1.0, 0.2, 0.02),
        )
        self.desk = Operations(self.store, {IMAGE_CREATE: self.runner}, lambda _id, text: text)
        self.thread = threading.Thread(target=self.worker.run_forever, daemon=True)

    def begin(self) -> str:
        return self.desk.begin(Nothing(), Caller("tester")).id

    def operation(self, operation_id: str) -> Operation:
        operation = self.store.get_operation(operation_id)
        assert operation is not None
        return operation

    def until(self, operation_id: str, state: State) -> Operation:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (operation := self.operation(operation_id)).state is not state:
            assert time.monotonic() < deadline, f"still {operation.state.name}"
            time.sleep(0.005)
        return operation

    def was_told(self, *words: str) -> None:
        """The runner is told the last of them after the operation has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.runner.told != list(words):
            assert time.monotonic() < deadline, self.runner.told
            time.sleep(0.005)

    def close(self) -> None:
        self.worker.drain()
        if self.thread.ident is not None:
            self.thread.join(PATIENCE_SECONDS)
            assert not self.thread.is_alive()
        self.store.close()


MakeBench = Callable[[Script], Bench]


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make(script: Script) -> Bench:
        benches.append(Bench(tmp_path, script))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


def succeed(claim: Claim, watch: PhasedWatch) -> Publish:
    return lambda tx: {"made by": claim.lease.fence}


def test_the_audit_log_has_beginning_and_end(make_bench: MakeBench) -> None:
    bench = make_bench(succeed)
    caller = Caller("alice", subject_type="userAccount", origin={"request_id": "request"})
    operation = bench.desk.begin(Nothing(), caller)
    bench.thread.start()
    bench.until(operation.id, State.DONE)
    begun, ended = bench.store.list_audit((0, ""), 10, subject_id="alice")
    assert (begun.result, ended.result) == ("STARTED", "OK")
    assert begun.operation_id == ended.operation_id == operation.id
    assert begun.request_id == "request"


def wait_for_interrupt(claim: Claim, watch: PhasedWatch) -> Publish:
    watch.enter("fetch")
    assert watch.event.wait(PATIENCE_SECONDS)
    watch.check()
    raise AssertionError("an interrupted watch must raise")


def test_work_ends_with_its_response(make_bench: MakeBench) -> None:
    bench = make_bench(succeed)
    bench.thread.start()
    operation = bench.until(bench.begin(), State.DONE)
    assert operation.response == {"made by": 1}
    bench.was_told("run", "clean")


def test_a_permanent_failure_ends_the_operation_at_once(make_bench: MakeBench) -> None:
    def refuse(claim: Claim, watch: PhasedWatch) -> Publish:
        raise errors.min_disk_size_too_small(1 << 30)

    bench = make_bench(refuse)
    bench.thread.start()
    operation = bench.until(bench.begin(), State.DONE)
    assert operation.error is not None and operation.error.reason == "MIN_DISK_SIZE_TOO_SMALL"
    bench.was_told("run", "fail", "clean")


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "RETRY_DELAYS_MS", (1, 1, 1))


@pytest.mark.usefixtures("no_delays")
def test_a_transient_failure_is_tried_again_until_it_works(make_bench: MakeBench) -> None:
    def flaky(claim: Claim, watch: PhasedWatch) -> Publish:
        if claim.attempt < 3:
            raise errors.store_busy()
        return succeed(claim, watch)

    bench = make_bench(flaky)
    bench.thread.start()
    operation = bench.until(bench.begin(), State.DONE)
    assert operation.response == {"made by": 3}


@pytest.mark.usefixtures("no_delays")
def test_attempts_are_bounded_and_the_last_failure_is_told(make_bench: MakeBench) -> None:
    def broken(claim: Claim, watch: PhasedWatch) -> Publish:
        raise errors.store_busy()

    bench = make_bench(broken)
    bench.thread.start()
    operation = bench.until(bench.begin(), State.DONE)
    assert operation.error is not None and operation.error.reason == "STORE_BUSY"
    assert bench.runner.told.count("run") == MAX_ATTEMPTS


@pytest.mark.usefixtures("no_delays")
def test_an_unknown_exception_is_not_shown_to_users(make_bench: MakeBench) -> None:
    def crash(claim: Claim, watch: PhasedWatch) -> Publish:
        raise RuntimeError("/secret/path")

    bench = make_bench(crash)
    bench.thread.start()
    operation = bench.until(bench.begin(), State.DONE)
    assert operation.error is not None
    assert operation.error.code is Code.INTERNAL
    assert "/secret" not in str(operation.error.to_record())


def test_an_operation_that_kills_its_workers_is_given_up(make_bench: MakeBench) -> None:
    bench = make_bench(succeed)
    operation_id = bench.begin()
    for _ in range(MAX_ATTEMPTS):  # each claims and dies, the supervisor notices
        assert bench.store.claim("doomed") is not None
        assert bench.store.put_back_all("doomed") == 1
    bench.thread.start()
    operation = bench.until(operation_id, State.DONE)
    assert operation.error is not None and operation.error.reason == "OPERATION_GAVE_UP"
    bench.was_told("fail", "clean")


def test_a_cancel_before_the_claim_ends_it_at_once(make_bench: MakeBench) -> None:
    bench = make_bench(succeed)
    operation = bench.desk.cancel(bench.begin())
    assert operation.done
    assert operation.error is not None and operation.error.code is Code.CANCELLED
    stored = bench.operation(operation.id)
    assert stored.error is not None
    assert stored.error.to_record() == operation.error.to_record()
    bench.was_told("abandon")


def test_a_cancel_stops_running_work_within_a_second(make_bench: MakeBench) -> None:
    bench = make_bench(wait_for_interrupt)
    bench.thread.start()
    operation_id = bench.begin()
    bench.until(operation_id, State.RUNNING)
    assert not bench.desk.cancel(operation_id).done
    operation = bench.until(operation_id, State.DONE)
    assert operation.error is not None and operation.error.code is Code.CANCELLED
    bench.was_told("run", "abandon", "clean")


def test_a_cancel_that_arrives_before_the_end_is_written_wins(make_bench: MakeBench) -> None:
    bench: Bench

    def cancelled_at_the_last_moment(claim: Claim, watch: PhasedWatch) -> Publish:
        bench.desk.cancel(claim.operation.id)
        return lambda tx: {}

    bench = make_bench(cancelled_at_the_last_moment)
    bench.thread.start()
    operation = bench.until(bench.begin(), State.DONE)
    assert operation.error is not None and operation.error.code is Code.CANCELLED
    bench.was_told("run", "abandon", "clean")


def test_a_cancelled_operation_of_a_dead_worker_ends_cancelled(make_bench: MakeBench) -> None:
    bench = make_bench(succeed)
    operation_id = bench.begin()
    assert bench.store.claim("dead") is not None
    bench.desk.cancel(operation_id)
    bench.store.put_back_all("dead")
    bench.thread.start()
    operation = bench.until(operation_id, State.DONE)
    assert operation.error is not None and operation.error.code is Code.CANCELLED
    assert "run" not in bench.runner.told


def test_work_on_rows_that_are_gone_ends_without_touching_any(make_bench: MakeBench) -> None:
    """As when a test run wipes its server while an import is about to be published."""
    published: list[Claim] = []

    def vanish(claim: Claim, watch: PhasedWatch) -> Publish:
        bench.store.write(lambda tx: tx.clear())

        def publish(tx: Transaction) -> dict[str, Any]:
            published.append(claim)
            return {}

        return publish

    bench = make_bench(vanish)
    operation_id = bench.begin()
    claim = bench.store.claim("tester")
    assert claim is not None
    bench.worker.run_claim(claim)
    assert bench.store.get_operation(operation_id) is None
    assert published == []
    bench.was_told("run", "clean")


def test_cancelling_a_finished_operation_returns_it_unchanged(make_bench: MakeBench) -> None:
    bench = make_bench(succeed)
    bench.thread.start()
    ended = bench.until(bench.begin(), State.DONE)
    assert bench.desk.cancel(ended.id) == ended
    assert bench.operation(ended.id) == ended


def test_a_draining_worker_gives_its_operation_back_uncounted(make_bench: MakeBench) -> None:
    bench = make_bench(wait_for_interrupt)
    bench.thread.start()
    operation_id = bench.begin()
    bench.until(operation_id, State.RUNNING)
    bench.worker.drain()
    bench.thread.join(PATIENCE_SECONDS)
    assert bench.operation(operation_id).state is State.PENDING
    again = bench.store.claim("next")
    assert again is not None and again.attempt == 1
    bench.was_told("run", "clean")


def test_a_worker_that_lost_its_lease_changes_nothing(make_bench: MakeBench) -> None:
    taken = threading.Event()

    def outlive_the_lease(claim: Claim, watch: PhasedWatch) -> Publish:
        bench.store.put_back_all("tester")
        assert bench.store.claim("thief") is not None
        taken.set()
        assert watch.event.wait(PATIENCE_SECONDS)
        return lambda tx: {"late": True}

    bench = make_bench(outlive_the_lease)
    bench.thread.start()
    operation_id = bench.begin()
    assert taken.wait(PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "clean" not in bench.runner.told:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    operation = bench.operation(operation_id)
    assert (operation.state, operation.fence, operation.response) == (State.RUNNING, 2, None)


def test_a_heartbeat_that_fails_for_any_reason_stops_the_work_in_time(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its thread died instead, the work would go on although the lease is long gone."""
    interrupted: list[Reason] = []

    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    def work(claim: Claim, watch: PhasedWatch) -> Publish:
        monkeypatch.setattr(SqliteStore, "heartbeat", broken)
        assert watch.event.wait(PATIENCE_SECONDS)
        monkeypatch.undo()
        try:
            watch.check()
        except Interrupted as stop:
            interrupted.append(stop.reason)
            raise
        raise AssertionError("an interrupted watch must raise")

    bench = make_bench(work)
    operation_id = bench.begin()
    claim = bench.store.claim("tester")
    assert claim is not None
    bench.worker.run_claim(claim)
    assert interrupted == [Reason.FENCED]
    assert bench.operation(operation_id).state is State.RUNNING


def test_an_operation_of_an_unknown_kind_is_left_to_newer_workers(make_bench: MakeBench) -> None:
    bench = make_bench(succeed)
    newer = insert_operation(bench.store, kind="image.transmogrify")
    operation_id = bench.begin()
    bench.thread.start()
    bench.until(operation_id, State.DONE)
    assert bench.operation(newer.id).state is State.PENDING
    assert bench.thread.is_alive()


def test_a_round_that_raises_does_not_end_the_worker(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def broken(*_: object) -> None:
        failed.set()
        raise sqlite3.DatabaseError("file is not a database")

    bench = make_bench(succeed)
    monkeypatch.setattr(worker_module, "_SETBACK_SECONDS", 0.01)
    monkeypatch.setattr(SqliteStore, "claim", broken)
    bench.thread.start()
    assert failed.wait(PATIENCE_SECONDS)
    monkeypatch.undo()
    bench.until(bench.begin(), State.DONE)


DRAINED_BY_SIGNAL = """
import signal, sys
from darkroom.worker.worker import Worker

class Idle:
    def claim(self, owner, key_ids): pass
    def wait_for_work(self): pass
    def collect_if_due(self): pass

for number in range(3000):
    worker = Worker(Idle(), {}, Idle(), "", lease=None)
    signal.signal(signal.SIGALRM, lambda *_: worker.drain())
    signal.setitimer(signal.ITIMER_REAL, 0.0001)
    worker.run_forever()
"""


def test_a_signal_drains_at_whatever_moment_it_comes() -> None:
    """A handler that needs a lock which the interrupted thread holds would never end."""
    subprocess.run([sys.executable, "-c", DRAINED_BY_SIGNAL], check=True, timeout=30)
