"""A watch that a test can pull."""

import threading

from darkroom.domain.work import Interrupted, Reason


class ManualWatch:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.reports: list[tuple[int, int | None]] = []

    def check(self) -> None:
        if self.event.is_set():
            raise Interrupted(Reason.CANCELLED)

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        self.reports.append((done_bytes, total_bytes))


STOPPED_SECONDS = 2.0
"""Interrupted work has ended by then on the busiest machine; left alone it takes 30 s or more."""
