"""The images are real: one goes through every kind of resource and boots in a virtual machine."""

import secrets
import subprocess
from pathlib import Path

from deriving import Deriving
from installation import Installation
from object_server import ObjectServer

MIB = 1 << 20
IMAGE_BYTES = 24 * MIB
DISK_BYTES = 64 * MIB
TEXT_SECTOR = IMAGE_BYTES // 512 - 1
BOOT_SECONDS = 60.0

GRUB_CONFIG = f"""
serial --unit=0 --speed=115200
terminal_output serial
cat (hd0){TEXT_SECTOR}+1
ls (hd0)
reboot
"""
"""Prints the disk's last sector and what it takes the disk's size for."""

GRUB_MODULES = ("biosdisk", "cat", "ls", "reboot", "serial", "terminal")


def bootable(folder: Path, text: str) -> Path:
    """A disk that boots GRUB from its first sectors and has the text in its last one."""
    config, core, raw = folder / "grub.cfg", folder / "core.img", folder / "boot.raw"
    config.write_text(GRUB_CONFIG)
    subprocess.run(
        ["grub-mkimage", "-O", "i386-pc", "-p", "/", "-c", config, "-o", core, *GRUB_MODULES],
        check=True,
    )
    boot_sector = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    with raw.open("wb") as file:
        file.write(boot_sector + core.read_bytes())
        file.seek(TEXT_SECTOR * 512)
        file.write(f"{text}\n".encode().ljust(512, b"\n"))
    qcow2 = folder / "boot.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    return qcow2


def serial_output(disk: Path) -> str:
    """What the disk prints when it boots, in emulation alone, without white space."""
    result = subprocess.run(
        [
            *("qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-no-reboot"),
            *("-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio"),
            *("-drive", f"file={disk},format=qcow2,if=ide"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=BOOT_SECONDS,
    )
    # The firmware's terminal breaks lines wherever it likes.
    return "".join(result.stdout.decode("ascii", "replace").split())


def test_an_image_of_a_snapshot_of_a_disk_of_an_image_boots(
    darkroom: Installation, source: ObjectServer, tmp_path: Path
) -> None:
    text = f"read-from-the-disk-{secrets.token_hex(8)}"
    path = bootable(tmp_path, text)
    assert text in serial_output(path)
    path.rename(source.folder / path.name)
    deriving = Deriving(darkroom)
    first = deriving.imported(source.url(path.name))
    disk = deriving.disk(size=DISK_BYTES, image_id=first.id)
    snapshot = deriving.snapshot(disk_id=disk.id)
    image = deriving.image(snapshot_id=snapshot.id)
    for resource in (first, disk, snapshot):
        deriving.delete(resource)
    exported = tmp_path / "exported.qcow2"
    darkroom.export(image.id, exported)
    printed = serial_output(exported)
    assert text in printed
    assert f"Totalsize{DISK_BYTES // 1024}KiB" in printed
