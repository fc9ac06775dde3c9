"""The development stack tidies up after one that was killed."""

import socket
from pathlib import Path

from darkroom.cli import seaweedfs


def bound(path: Path) -> socket.socket:
    """A socket that somebody listens at."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def test_sockets_of_a_killed_stack_are_swept_and_no_others(tmp_path: Path) -> None:
    left, held, foreign = (
        tmp_path / f"seaweedfs-filer-grpc-{port}.sock" for port in (20005, 20021, 8888)
    )
    for path in (left, held, foreign):
        bound(path).close()
    alive = tmp_path / "seaweedfs-master-grpc-20006.sock"
    with bound(alive), seaweedfs._held(20016):
        seaweedfs.sweep_sockets(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([alive, held, foreign])
    seaweedfs.sweep_sockets(tmp_path)
    assert list(tmp_path.iterdir()) == [foreign]
