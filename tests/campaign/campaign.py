"""A crash campaign: an installation under load, whose processes are killed at random.

One seed decides what is killed, frozen and restarted in which order, after which pauses, and what
clients ask for; how far each process is by then, the machine decides.
"""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from campaign import verdict
from campaign.clients import Client
from campaign.fleet import LEASE_SECONDS, Fleet
from campaign.journal import Journal
from darkroom.telemetry.failpoints import POINTS
from object_server import ObjectServer

CLIENTS = 4
_ARMED = 2
"""Failpoints that wait for somebody at any time."""
_PATIENCE = 12
"""Crashes after which a failpoint that nobody has come to is given up for another one."""
_STUCK_SECONDS = 60.0
"""Longest time in which work may make no progress."""
_SETTLE_SECONDS = 120.0

LEAST_ACKNOWLEDGED = 3.0
LEAST_IMPORTED = 0.5
"""Operations acknowledged and imports finished per kill, below which a run says nothing."""
_START = 5
"""Kills before that is counted."""


@dataclass(frozen=True)
class Crash:
    """One choice: what happens to whom, after which pause."""

    kind: str
    pause_seconds: float
    at_once: bool
    """Whether it does not wait until some work was done since the last one."""
    victim: int


WEIGHTS = {"worker": 12, "child": 4, "api": 4, "both": 1, "database": 4, "all": 1, "drain": 3}
FREEZES = {"freeze worker": 2, "freeze api": 1}
NO_KILL = {*FREEZES, "drain"}


def crashes(seed: str, *, database: bool) -> Iterator[Crash]:
    """What happens, without end."""
    choice = random.Random(seed)
    weights = {**WEIGHTS, **FREEZES}
    if not database:
        del weights["database"]
    while True:
        (kind,) = choice.choices(list(weights), list(weights.values()))
        pause_seconds = choice.uniform(0.0, 0.3)
        yield Crash(kind, pause_seconds, choice.random() < 0.25, choice.randrange(1 << 30))


@dataclass
class Aim:
    """A failpoint that waits for somebody."""

    point: str
    action: str
    since: int


@dataclass
class Figures:
    """What happened."""

    seed: str
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def killed(self) -> int:
        return sum(self.kills.values())

    def __str__(self) -> str:
        return (
            f"SEED={self.seed}: {self.killed} kills in {self.seconds:.0f} s {dict(self.kills)}, "
            f"besides {dict(self.others)}; at failpoints {dict(sorted(self.points.items()))}; "
            f"{dict(self.counts)}"
        )


class Campaign:
    """One run on one fleet."""

    def __init__(
        self, fleet: Fleet, source: ObjectServer, seed: str, points: frozenset[str] = POINTS
    ) -> None:
        """`points` are the failpoints that can be reached with the stores of the fleet."""
        self.figures = Figures(seed)
        self.journal = Journal(fleet.folder / "journal")
        self._fleet = fleet
        self._source = source
        self._choice = random.Random(f"{seed}/points")
        self._points = sorted(points)
        self._queue: list[str] = []
        self._aims: list[Aim] = []
        self._crashes = crashes(f"{seed}/crashes", database=fleet.database is not None)
        self._clients = [
            Client(fleet, self.journal, source, f"{seed}/client-{number}")
            for number in range(CLIENTS)
        ]

    def run(self, kills: int) -> None:
        """Kill so often, then compare. Problems are in `journal.violations`."""
        started = time.monotonic()
        self._fleet.start()
        for client in self._clients:
            client.start()
        try:
            while self.figures.killed < kills and not self.journal.violations:
                self._crash(next(self._crashes))
            self._wait_for_work()
        finally:
            self._disarm()
            for client in self._clients:
                client.stop()
        self.figures.seconds = time.monotonic() - started
        self._settle()
        if not self.journal.violations:
            verdict.seen_from_outside(self._clients, self.journal)
            self._end()
        if lacks := self._lacks():
            kills, counts = self.figures.killed, self.journal.counts
            self.journal.violated(f"too little was {lacks} for {kills} kills: {counts}")

    # --- crashes ----------------------------------------------------------------------------------

    def _crash(self, crash: Crash) -> None:
        self._aim()
        self._pause(crash.pause_seconds)
        if not crash.at_once:
            self._wait_for_work()
        workers, apis = self._fleet.working, self._fleet.serving
        worker, api = workers[crash.victim % len(workers)], apis[crash.victim % len(apis)]
        match crash.kind:
            case "worker":
                self._fleet.kill(worker)
            case "child":
                child = self._fleet.supervised()
                if child is None:
                    return
                child.kill()
            case "api":
                self._fleet.kill(api)
            case "both":
                self._fleet.kill(api)
                self._fleet.kill(worker)
            case "database" | "all":
                self._power_cut(everything=crash.kind == "all")
            case "drain":
                member = self._fleet.members[crash.victim % len(self._fleet.members)]
                # Before it can hear the signal it ends by it, and it may come to a failpoint.
                status = self._fleet.drain(member)
                if status not in (0, -signal.SIGTERM, -signal.SIGKILL):
                    self.journal.violated(f"{member.name} was to drain: status {status}")
            case "freeze worker":
                self._fleet.freeze(worker, LEASE_SECONDS * 2)
            case "freeze api":
                self._fleet.freeze(api, LEASE_SECONDS * 2)
        (self.figures.others if crash.kind in NO_KILL else self.figures.kills)[crash.kind] += 1

    def _power_cut(self, *, everything: bool) -> None:
        """The database server ends without a word, and with it all others perhaps."""
        database = self._fleet.database
        if everything:
            for member in self._fleet.members:
                member.signal(signal.SIGKILL)
        if database is not None:
            database.kill()
            database.start()
        if everything:
            for member in self._fleet.members:
                self._fleet.kill(member)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self._attend()
            if time.monotonic() >= end:
                return
            time.sleep(0.01)

    def _wait_for_work(self) -> None:
        """Until some was done since the last crash, and enough in all to say something."""
        counts = self.journal.counts
        before = counts["acknowledged"]
        deadline = time.monotonic() + _STUCK_SECONDS
        while counts["acknowledged"] == before or self._lacks(ahead=_ARMED):
            if self.journal.violations:
                return
            if time.monotonic() > deadline:
                self.journal.violated(f"for {_STUCK_SECONDS} s there was no progress: {counts}")
            self._attend()
            time.sleep(0.01)

    def _lacks(self, *, ahead: int = 0) -> list[str]:
        """What was done too little of for so many kills, and those that lie `ahead`."""
        counted = self.figures.killed + ahead - _START
        least = {"acknowledged": LEAST_ACKNOWLEDGED, "imported": LEAST_IMPORTED}
        return [what for what in least if self.journal.counts[what] < least[what] * counted]

    # --- failpoints -------------------------------------------------------------------------------

    def _aim(self) -> None:
        kills = self.figures.killed
        for aim in list(self._aims):
            if kills - aim.since > _PATIENCE and self._take_back(aim.point):
                self._aims.remove(aim)
        while len(self._aims) < _ARMED:
            if not self._queue:
                self._queue = self._choice.sample(self._points, len(self._points))
            point = self._queue.pop()
            action = "stop" if self._choice.random() < 0.1 else "kill"
            if any(aim.point == point for aim in self._aims):
                continue
            self._path(point, "hit").unlink(missing_ok=True)
            self._path(point, "arm").with_suffix(".new").write_text(action)
            self._path(point, "arm").with_suffix(".new").rename(self._path(point, "arm"))
            self._aims.append(Aim(point, action, kills))

    def _path(self, point: str, kind: str) -> Path:
        return self._fleet.failpoints / f"{point}.{kind}"

    def _take_back(self, point: str) -> bool:
        try:
            self._path(point, "arm").unlink()
        except FileNotFoundError:
            return False  # somebody has come to it
        return True

    def _disarm(self) -> None:
        for aim in self._aims:
            self._take_back(aim.point)

    def _attend(self) -> None:
        """See who has come to a failpoint, start anew who is gone, let go on who stood still."""
        for aim in list(self._aims):
            hit = self._path(aim.point, "hit")
            words = hit.read_text().split() if hit.exists() else []
            if len(words) == 2:
                self._aims.remove(aim)
                self._hit(aim, int(words[1]))
        for member in self._fleet.members:
            if member.frozen_until and time.monotonic() > member.frozen_until:
                self._fleet.thaw(member)
            if (status := member.ended()) is not None:
                if status != -signal.SIGKILL:
                    self.journal.violated(f"{member.name} ended by itself: status {status}")
                member.start()

    def _hit(self, aim: Aim, pid: int) -> None:
        self.figures.points[aim.point] += 1
        member = self._fleet.holder(pid)
        if aim.action == "kill":
            self.figures.kills["at failpoint"] += 1
            if member is not None:
                member.wait(10.0)
        else:
            self.figures.others["freeze at failpoint"] += 1
            # A supervised one is killed by whoever supervises it.
            if member is not None and not member.frozen_until:
                member.frozen_until = time.monotonic() + LEASE_SECONDS * 2

    # --- the end ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        for client in self._clients:
            while client.alive and time.monotonic() < deadline and not self.journal.violations:
                self._attend()
                time.sleep(0.02)
        if self.journal.violations:
            self.journal.abandoned.set()
        for client in self._clients:
            client.join(10.0)
        self.figures.counts = self.journal.counts

    def _end(self) -> None:
        for problem in self._fleet.stop():
            self.journal.violated(problem)
        inside = verdict.Inside(self._fleet, self.journal)
        self._fleet.collect(inside.clean)
        inside.examine(self._source.folder)
