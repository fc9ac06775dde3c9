"""A file that was cut off anywhere is refused, or gives exactly the right bytes."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from darkroom.domain.errors import Failure
from darkroom.imaging.conversion import ConversionLimits, Converter
from darkroom.imaging.inspection import inspect
from darkroom.imaging.sandbox import Sandbox
from imaging import images
from imaging.watches import ManualWatch

KIB = 1024
_LIMITS = ConversionLimits(max_stored_bytes=8 << 20)
FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "qcow2": ("qcow2", ("-o", "cluster_size=4k")),
    "qcow2 version 2": ("qcow2", ("-o", "compat=0.10,cluster_size=4k")),
    "qcow2 zlib": ("qcow2", ("-c", "-o", "cluster_size=4k")),
    "qcow2 zstd": ("qcow2", ("-c", "-o", "cluster_size=4k,compression_type=zstd")),
    "vmdk": ("vmdk", ("-o", "subformat=monolithicSparse")),
    "vmdk stream": ("vmdk", ("-o", "subformat=streamOptimized")),
}


def whole(kind: str, folder: Path) -> tuple[Path, Path]:
    """A raw disk of 320 KiB, more than half of it data, and an image of it."""
    raw = folder / "raw"
    with raw.open("wb") as file:
        for _ in range(4):
            file.write(os.urandom(24 * KIB) + b"\x5a" * (8 * KIB) + bytes(32 * KIB))
            file.write(bytes(range(256)) * 64)
        file.truncate(file.tell() - 512)  # its last cluster is not full
    image_format, options = FORMS[kind]
    image = folder / "whole"
    images.qemu_img("convert", "-f", "raw", "-O", image_format, *options, raw, image)
    return raw, image


def judged(raw: Path, image: Path, sizes: Iterable[int], folder: Path) -> list[int]:
    """Those of the sizes at which the cut file was taken; each then has all the right bytes."""
    taken = []
    for size in sizes:
        cut, target = folder / "cut", folder / "out" / "target"
        target.parent.mkdir()
        shutil.copyfile(image, cut)
        os.truncate(cut, size)
        try:
            Converter(Sandbox.detect(), _LIMITS).convert(cut, inspect(cut), target, ManualWatch())
        except Failure as failure:
            if not failure.reason.startswith("IMAGE_"):
                raise
        else:
            assert images.same(raw, "raw", target), (
                f"cut at {size} of {image.stat().st_size}: other bytes"
            )
            taken.append(size)
        shutil.rmtree(target.parent)
    return taken


@pytest.mark.parametrize("kind", FORMS)
def test_cut_anywhere(kind: str, tmp_path: Path) -> None:
    """Here and there; `make soak` cuts at every sector."""
    raw, image = whole(kind, tmp_path)
    size = image.stat().st_size
    sizes = {size * part // 8 + shift for part in (1, 3, 6, 8) for shift in (-513, -1)}
    taken = judged(raw, image, sorted(sizes), tmp_path)
    assert len(taken) < len(sizes)
    assert judged(raw, image, [size], tmp_path) == [size]
