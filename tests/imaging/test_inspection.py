"""Every accepted kind is recognised, every hostile file refused for its own reason."""

import contextlib
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.domain.errors import CATALOGUE, Failure
from darkroom.imaging.inspection import Inspection, InspectionLimits, inspect
from imaging import hostile, images
from imaging.images import MIB

ACCEPTED: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "raw": ("raw", lambda raw, path: Path(shutil.copyfile(raw, path))),
    "qcow2 v2": ("qcow2", lambda raw, path: images.converted(raw, path, "qcow2", "compat=0.10")),
    "qcow2 v3": ("qcow2", lambda raw, path: images.converted(raw, path, "qcow2", "compat=1.1")),
    "qcow2 zlib": ("qcow2", lambda raw, path: images.converted(raw, path, "qcow2", "", "-c")),
    "qcow2 zstd": (
        "qcow2",
        lambda raw, path: images.converted(raw, path, "qcow2", "compression_type=zstd", "-c"),
    ),
    "qcow2 512-byte clusters": (
        "qcow2",
        lambda raw, path: images.converted(raw, path, "qcow2", "cluster_size=512"),
    ),
    "qcow2 2-MiB clusters": (
        "qcow2",
        lambda raw, path: images.converted(raw, path, "qcow2", "cluster_size=2M"),
    ),
    "qcow2 preallocated": (
        "qcow2",
        lambda raw, path: images.converted(raw, path, "qcow2", "preallocation=falloc"),
    ),
    "vmdk sparse": (
        "vmdk",
        lambda raw, path: images.converted(raw, path, "vmdk", "subformat=monolithicSparse"),
    ),
    "vmdk stream with footer": ("vmdk", images.footed),
    "vmdk stream": (
        "vmdk",
        lambda raw, path: images.converted(raw, path, "vmdk", "subformat=streamOptimized"),
    ),
}
WITHOUT_A_FORMAT = {
    "mbr": images.partitioned,
    "gpt": images.gpt,
    "hybrid iso": images.hybrid_iso,
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepts(kind: str, tmp_path: Path) -> None:
    image_format, build = ACCEPTED[kind]
    path = build(images.disk(tmp_path / "raw"), tmp_path / "image")
    found = inspect(path)
    assert (found.format, found.virtual_size_bytes) == (image_format, 6 * MIB)
    assert not found.dirty


@pytest.mark.parametrize("kind", WITHOUT_A_FORMAT)
def test_takes_disks_without_a_format_as_raw(kind: str, tmp_path: Path) -> None:
    path = WITHOUT_A_FORMAT[kind](tmp_path / "image")
    assert inspect(path) == Inspection("raw", 6 * MIB)


def test_pads_raw_to_whole_sectors(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(1000))
    assert inspect(path) == Inspection("raw", 1024)


def test_takes_a_blank_disk(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 10 * MIB)
    assert inspect(path) == Inspection("raw", 10 * MIB)


def test_takes_an_image_that_was_not_closed(tmp_path: Path) -> None:
    path = images.converted(
        images.disk(tmp_path / "raw"), tmp_path / "image", "qcow2", "lazy_refcounts=on"
    )
    with path.open("r+b") as file:
        file.seek(79)
        file.write(b"\1")
    assert inspect(path).dirty


@pytest.mark.parametrize("size", ["1M", "1G", "4T"])
@pytest.mark.parametrize("image_format", ["qcow2", "vmdk"])
def test_takes_empty_images(image_format: str, size: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    images.qemu_img("create", "-f", image_format, path, size)
    assert inspect(path).format == image_format


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    path = images.disk(tmp_path / "image")
    assert inspect(path, InspectionLimits(6 * MIB)).virtual_size_bytes == 6 * MIB
    with pytest.raises(Failure) as caught:
        inspect(path, InspectionLimits(6 * MIB - 1))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("case", hostile.BY_INSPECTION, ids=lambda case: case.name)
def test_refuses(case: hostile.Hostile, tmp_path: Path) -> None:
    parts, path = tmp_path / "parts", tmp_path / "image"
    parts.mkdir()
    case.build(parts, path)
    started = time.process_time()
    with pytest.raises(Failure) as caught:
        inspect(path)
    # Bounded, whatever the file says about itself: the figure is about 1 ms.
    assert time.process_time() - started < 2.0
    assert caught.value.reason == case.reason
    assert str(tmp_path) not in caught.value.message
    assert CATALOGUE[case.reason].advice


@pytest.mark.parametrize("case", hostile.BY_CONVERSION, ids=lambda case: case.name)
def test_leaves_the_rest_to_the_conversion(case: hostile.Hostile, tmp_path: Path) -> None:
    parts, path = tmp_path / "parts", tmp_path / "image"
    parts.mkdir()
    case.build(parts, path)
    inspect(path)


def test_survives_any_header(tmp_path: Path) -> None:
    """Whatever the bytes of a header are, the answer is an inspection or a `Failure`."""
    plain = images.converted(images.disk(tmp_path / "raw"), tmp_path / "q", "qcow2").read_bytes()
    sparse = images.converted(tmp_path / "raw", tmp_path / "v", "vmdk").read_bytes()
    path = tmp_path / "image"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for image in (plain, sparse):
        for offset in range(4, 120):
            for value in (0, 0x7F, 0xFF):
                damaged = bytearray(image[:400_000])
                damaged[offset] = value
                path.write_bytes(damaged)
                with contextlib.suppress(Failure):
                    inspect(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
