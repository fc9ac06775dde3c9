"""Whatever comes in, what is stored is one plain qcow2 with the same disk inside."""

import hashlib
import os
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from darkroom.domain.errors import Failure
from darkroom.domain.work import Interrupted
from darkroom.imaging.conversion import ConversionLimits, Converter
from darkroom.imaging.inspection import Inspection, inspect
from darkroom.imaging.sandbox import Confinement, Sandbox
from imaging import hostile, images
from imaging.images import MIB
from imaging.test_inspection import ACCEPTED, WITHOUT_A_FORMAT
from imaging.watches import STOPPED_SECONDS, ManualWatch

LIMITS = ConversionLimits(max_stored_bytes=16 * MIB)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox.detect()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.disk(tmp_path_factory.mktemp("raw") / "raw")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir(mode=0o700)
    return tmp_path / "out" / "image.qcow2"


def check_stored(target: Path) -> None:
    found = inspect(target)
    assert found.format == "qcow2" and not found.dirty
    report = images.qemu_img("check", "-f", "qcow2", target)
    assert "No errors" in report


@pytest.mark.parametrize("kind", ACCEPTED)
def test_keeps_the_disk(
    kind: str, raw: Path, sandbox: Sandbox, tmp_path: Path, target: Path
) -> None:
    source = ACCEPTED[kind][1](raw, tmp_path / "source")
    watch = ManualWatch()
    converted = Converter(sandbox, LIMITS).convert(source, inspect(source), target, watch)
    assert images.same(raw, "raw", target)
    check_stored(target)
    data = target.read_bytes()
    assert converted.virtual_size_bytes == 6 * MIB
    assert converted.stored_size_bytes == len(data)
    assert converted.sha256 == hashlib.sha256(data).hexdigest()
    assert watch.reports[-1] == (6 * MIB, 6 * MIB)
    assert [entry.name for entry in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("kind", WITHOUT_A_FORMAT)
def test_keeps_disks_without_a_format(
    kind: str, sandbox: Sandbox, tmp_path: Path, target: Path
) -> None:
    source = WITHOUT_A_FORMAT[kind](tmp_path / "source")
    Converter(sandbox, LIMITS).convert(source, inspect(source), target, ManualWatch())
    assert images.same(source, "raw", target)


@pytest.mark.parametrize(
    "name", ["raw of 1000 bytes", "blank", "not closed", "with bitmap", "empty qcow2", "empty vmdk"]
)
def test_keeps_odd_images(
    name: str, raw: Path, sandbox: Sandbox, tmp_path: Path, target: Path
) -> None:
    source, image_format = tmp_path / "source", "raw"
    if name == "raw of 1000 bytes":
        source.write_bytes(os.urandom(1000))
    elif name == "blank":
        source.touch()
        os.truncate(source, 10 * MIB)
    elif name.startswith("empty"):
        image_format = name.split()[1]
        images.qemu_img("create", "-f", image_format, source, "10M")
    else:
        image_format = "qcow2"
        images.converted(raw, source, "qcow2", "lazy_refcounts=on")
        if name == "with bitmap":
            images.qemu_img("bitmap", "--add", source, "changes")
        else:
            with source.open("r+b") as file:
                file.seek(79)
                file.write(b"\1")
    inspection = inspect(source)
    Converter(sandbox, LIMITS).convert(source, inspection, target, ManualWatch())
    assert images.same(source, image_format, target)
    assert inspect(target).virtual_size_bytes == inspection.virtual_size_bytes


def test_compresses(raw: Path, sandbox: Sandbox, tmp_path: Path, target: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"".join(os.urandom(64) * 1024 for _ in range(96)))
    converted = Converter(sandbox, LIMITS, "zstd").convert(
        source, inspect(source), target, ManualWatch()
    )
    assert images.same(source, "raw", target)
    assert converted.stored_size_bytes < 2 * MIB
    assert '"compression-type": "zstd"' in images.qemu_img("info", "--output=json", target)


def test_landlock_alone_is_enough(raw: Path, tmp_path: Path, target: Path) -> None:
    sandbox = Sandbox(Confinement.LANDLOCK)
    if not sandbox.works():
        pytest.skip("no Landlock on this machine")
    source = images.converted(raw, tmp_path / "source", "qcow2")
    Converter(sandbox, LIMITS).convert(source, inspect(source), target, ManualWatch())
    assert images.same(raw, "raw", target)
    assert target.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("case", hostile.BY_CONVERSION, ids=lambda case: case.name)
def test_refuses(case: hostile.Hostile, sandbox: Sandbox, tmp_path: Path, target: Path) -> None:
    parts, source = tmp_path / "parts", tmp_path / "source"
    parts.mkdir()
    case.build(parts, source)
    with pytest.raises(Failure) as caught:
        Converter(sandbox, LIMITS).convert(source, inspect(source), target, ManualWatch())
    assert caught.value.reason == case.reason
    assert str(tmp_path) not in str(caught.value.to_record())
    assert not list(target.parent.iterdir())


REACHING_OUT = [
    case
    for case in hostile.BY_INSPECTION
    if case.reason in ("IMAGE_HAS_BACKING_FILE", "IMAGE_HAS_DATA_FILE", "IMAGE_EXTENTS_ELSEWHERE")
]


@pytest.mark.parametrize("layer", [Confinement.BUBBLEWRAP, Confinement.LANDLOCK])
@pytest.mark.parametrize("case", REACHING_OUT, ids=lambda case: case.name)
def test_the_sandbox_alone_stops_leaks(
    case: hostile.Hostile, layer: Confinement, tmp_path: Path, target: Path
) -> None:
    """Even with an inspection that saw nothing, no other file comes out."""
    sandbox = Sandbox(layer)
    if not sandbox.works():
        pytest.skip(f"{layer.value} does not work on this machine")
    parts, source = tmp_path / "parts", tmp_path / "source"
    parts.mkdir()
    case.build(parts, source)
    secrets = [path for path in parts.iterdir() if path.name.startswith(("secret", "data"))]
    image_format = "qcow2" if source.read_bytes()[:4] == b"QFI\xfb" else "vmdk"
    blind = Inspection(image_format, 6 * MIB)  # type: ignore[arg-type]
    try:
        Converter(sandbox, LIMITS).convert(source, blind, target, ManualWatch())
    except Failure:
        assert not target.exists()
        return
    # A header that only looked suspicious: what came out is the file's own.
    stored = target.read_bytes()
    for secret in secrets:
        assert secret.read_bytes()[:512] not in stored


def busy(folder: Path) -> Path:
    """A source whose conversion takes many seconds of CPU."""
    source = folder / "source"
    with source.open("wb") as file:
        for _ in range(512):
            file.write(os.urandom(64) * (1 << 14))
    return source


def converters() -> list[psutil.Process]:
    own = psutil.Process()
    return [child for child in own.children(recursive=True) if "qemu" in child.name()]


@pytest.fixture
def long_source(tmp_path: Path) -> Path:
    return busy(tmp_path)


def test_stops_at_once(long_source: Path, sandbox: Sandbox, target: Path) -> None:
    watch = ManualWatch()
    pulled: list[float] = []

    def pull() -> None:
        deadline = time.monotonic() + 10
        while not (target.exists() and converters()) and time.monotonic() < deadline:
            time.sleep(0.002)
        pulled.append(time.monotonic())
        watch.event.set()

    puller = threading.Thread(target=pull)
    puller.start()
    with pytest.raises(Interrupted):
        Converter(sandbox, ConversionLimits(), "zstd").convert(
            long_source, inspect(long_source), target, watch
        )
    took = time.monotonic() - pulled[0]
    puller.join()
    assert took < STOPPED_SECONDS
    assert not converters()
    assert not target.exists()


def test_gives_up_in_time(long_source: Path, sandbox: Sandbox, target: Path) -> None:
    limits = ConversionLimits(cpu_seconds=1, cpu_seconds_per_gib=0, wall_factor=0.2)
    with pytest.raises(Failure) as caught:
        Converter(sandbox, limits, "zstd").convert(
            long_source, inspect(long_source), target, ManualWatch()
        )
    assert caught.value.reason == "CONVERSION_TIMEOUT"
    assert not converters()
    assert not target.exists()


def test_a_full_disk(raw: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    """A real one, as far as this machine lets us mount it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system of its own needs root")
    try:
        with pytest.raises(Failure) as caught:
            Converter(sandbox, LIMITS).convert(raw, inspect(raw), folder / "i", ManualWatch())
        assert (caught.value.reason, caught.value.retry_after_seconds) == ("STORAGE_FULL", 30.0)
        assert not list(folder.iterdir())
    finally:
        subprocess.run(["umount", folder], check=True)
