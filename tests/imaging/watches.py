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
