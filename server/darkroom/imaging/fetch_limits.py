"""What one download may use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FetchLimits:
    """Bounds of one download."""

    max_bytes: int = 64 * 1024**3
    """Largest object, bytes; also enforced on what arrives when no length was announced."""
    total_seconds: float = 6 * 3600.0
    """Longest download, seconds."""
    stall_seconds: float = 30.0
    """Within this time `min_bytes_per_second` must be reached on average, seconds."""
    min_bytes_per_second: int = 16 * 1024
    """Slowest download that does not count as stalled, bytes per second over all connections."""
    max_bytes_per_second: int = 0
    """Fastest download, bytes per second over all connections; 0 for as fast as it goes."""
    connect_seconds: float = 10.0
    """Longest name lookup and longest connection set-up, seconds each."""
    max_connections: int = 8
    """Most parts that are read at once."""
    part_bytes: int = 8 * 1024**2
    """Length of one ranged read, bytes."""
    attempts: int = 6
    """How often one part is tried without getting further before the download fails."""
    backoff_seconds: float = 0.2
    """Pause before the second try, seconds; doubled for each try after it, at most 5 s."""
