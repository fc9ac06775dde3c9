"""One installation that everything is watched of, for all tests that only look at it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from installation import Installation, installation, until
from object_server import ObjectServer
from telemetry.collector import Collector, Received

PARENT = "00f067aa0ba902b7"


def sampled(trace_id: str) -> tuple[tuple[str, str]]:
    """Metadata of a caller who wants the call to be traced."""
    return (("traceparent", f"00-{trace_id}-{PARENT}-01"),)


@dataclass(frozen=True)
class Watched:
    """An installation with figures and traces, where one import succeeded and one failed."""

    running: Installation
    collector: Collector
    good: str
    """The operation's id, and below that of its trace."""
    good_trace: str = "4bf92f3577b34da6a3ce929d0e0e4736"
    bad_trace: str = "5bf92f3577b34da6a3ce929d0e0e4736"

    def attempts(self, trace_id: str) -> list[Received]:
        """Workers' spans of a trace; they are the last to come."""
        return [each for each in self.collector.spans(trace_id) if each.name.startswith("attempt")]


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    objects = folder / "objects"
    objects.mkdir()
    (objects / disk.name).hardlink_to(disk)
    with Collector().running() as collector, ObjectServer(objects).running() as source:
        settings = {
            "DARKROOM_METRICS_LISTEN": "127.0.0.1:0",
            "DARKROOM_TRACING_ENDPOINT": collector.endpoint,
            "DARKROOM_TRACING_RATIO": "0",
            "DARKROOM_WORKERS": "2",
        }
        with installation(folder, source.origin, **settings) as running:
            metadata = sampled(Watched.good_trace)
            good = running.create(source.url(disk.name), metadata=metadata, name="good")
            missing = source.url("nothing.qcow2") + "?X-Amz-Signature=c0ffee"
            bad = running.create(missing, metadata=sampled(Watched.bad_trace), name="bad")
            assert not running.done(good.id).HasField("error")
            assert running.done(bad.id).HasField("error")
            with pytest.raises(grpc.RpcError):
                running.image("no-such-image")
            made = Watched(running, collector, good.id)
            # A test may kill the workers, which send them a little later.
            until(lambda: made.attempts(made.good_trace), "spans of the import that succeeded")
            until(lambda: made.attempts(made.bad_trace), "spans of the import that failed")
            yield made


@pytest.fixture
def house(watched: Watched) -> Installation:
    return watched.running
