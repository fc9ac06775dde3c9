"""A metadata store whose calls are timed."""

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from darkroom.domain.errors import Failure
from darkroom.storage.port import MetadataStore

Observer = Callable[[str, float, str], None]
"""Hears of each call, its seconds, and why the database failed it, or ""."""

_CALLS = (
    *("write", "get", "find", "latest_by_family", "list_bindings", "list_operations"),
    *("get_operation", "claim", "heartbeat", "put_back", "put_back_all"),
    *("unreferenced_contents", "delete_content", "contents_in_use", "live_attempts"),
    *("purge_operations", "writable", "backlog", "content_totals"),
)
_OF_THE_DATABASE = "STORE_"
"""How the reasons of its failures begin; others are refusals that a transaction decided on."""


class _Observed:
    def __init__(self, store: MetadataStore, observers: Sequence[Observer]) -> None:
        self._store = store
        for name in _CALLS:
            setattr(self, name, _timed(name, getattr(store, name), tuple(observers)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def observed(store: MetadataStore, observers: Sequence[Observer]) -> MetadataStore:
    """The store; each observer hears of every call that users or workers wait for."""
    return cast(MetadataStore, _Observed(store, observers)) if observers else store


def _timed(
    name: str, act: Callable[..., Any], observers: tuple[Observer, ...]
) -> Callable[..., Any]:
    clock = time.perf_counter

    def timed(*arguments: Any, **options: Any) -> Any:
        started = clock()
        reason = ""
        try:
            return act(*arguments, **options)
        except Failure as failure:
            if failure.reason.startswith(_OF_THE_DATABASE):
                reason = failure.reason
            raise
        finally:
            seconds = clock() - started
            for observer in observers:
                observer(name, seconds, reason)

    return timed
