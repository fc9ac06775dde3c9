"""Looks for secrets in clear in whatever an installation has written: each one, when it ends."""

import re
from collections.abc import Iterator
from pathlib import Path

from object_server import SIGNATURE

_BASE64 = rb"[A-Za-z0-9_=-]"
SECRET = re.compile(
    b"|".join(
        [
            # Of a pre-signed URL, as the tests sign them.
            re.escape(SIGNATURE.partition("=")[2].encode()),
            # An IAM token with its signature, of which the log may have the rest.
            rb"t1\.%(b)s{10,}\.%(b)s{80,}" % {b"b": _BASE64},
            # A JSON Web Token with its signature.
            rb"eyJ%(b)s{10,}\.eyJ%(b)s{10,}\.%(b)s{40,}" % {b"b": _BASE64},
            # A static token of a user.
            rb"y0_%(b)s{16,}" % {b"b": _BASE64},
            rb"PRIVATE KEY-----",
        ]
    )
)
_NO_PLACE_FOR_US = {"contents", "tls"}
"""What images hold is their owners' business, and keys of certificates are kept in files."""


def leaks(data: Path, *others: Path) -> list[str]:
    """Files below a data folder, and other ones, that hold a secret; named with its beginning."""
    return [
        f"{path.name}: {found[0][:12]!r}..."
        for path in (*_files(data), *others)
        if (found := SECRET.search(path.read_bytes()))
    ]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            if path.name not in _NO_PLACE_FOR_US and not path.name.endswith(".scratch"):
                yield from _files(path)
        elif path.is_file():
            yield path
