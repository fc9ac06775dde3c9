"""What the kernel saw: hostile images lead qemu to no file but their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imaging import hostile

_CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
_CHANGING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
_CHANGES = {"creat", "link", "linkat", "mknod", "mknodat", "rename", "renameat", "renameat2"}
_CHANGES |= {"truncate", "unlink", "unlinkat", "symlink", "symlinkat", "chmod", "fchmodat"}
_OWN = re.compile(
    # The one file that a conversion makes, by its names outside and inside the sandbox.
    r".*/out/target|/out/target|target"
    # What bubblewrap makes its sandbox of, in a mount namespace of its own.
    r"|/?(newroot|oldroot)(/.*)?|/proc/self/\w+|(/newroot)?/dev/\w+|\.|/|/tmp"
    # Files that show whether a folder or a sandbox works here.
    r"|.*/temporary/\w+"
    r"|\d+/(ns/\w+|setgroups|uid_map|gid_map)|(uid|gid)_map|setgroups|self/fd|/run/.*"
)


@pytest.mark.timeout(900)
def test_no_other_file_is_opened(tmp_path: Path) -> None:
    images, log = tmp_path / "images", tmp_path / "strace.log"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    cases = [*hostile.BY_INSPECTION, *hostile.BY_CONVERSION]
    for case in cases:
        folder = images / case.name
        (folder / "parts").mkdir(parents=True)
        (folder / "out").mkdir(mode=0o700)
        case.build(folder / "parts", folder / "source")
    strace = ["strace", "-f", "-qq", "-e", "trace=%file", "-s", "4096", "-o", str(log)]
    script = str(Path(__file__).with_name("convert_all.py"))
    ended = subprocess.run(
        [*strace, sys.executable, script, str(images)],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    tried, changed = set(), set()
    for line in log.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is None:
            continue
        paths = _PATH.findall(call["arguments"])
        if any("/parts/" in path for path in paths):
            tried.add(call["result"])
        elif call["result"] != "-1" and (
            call["name"] in _CHANGES or _CHANGING.search(call["arguments"])
        ):
            # Of a symbolic link, what is made comes second.
            changed.update(paths[1:] if call["name"].startswith("symlink") else paths)
    changed = {path for path in changed if not _OWN.fullmatch(path)}
    # qemu did go after the files that images name, and found nothing.
    assert tried == {"-1"}
    assert not changed, sorted(changed)
