"""`darkroom fsck`: examine an installation, running or not, and mend what is safe."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from darkroom import config, wiring
from darkroom.cli.command import Subparsers
from darkroom.domain.errors import Failure
from darkroom.domain.finding import Finding
from darkroom.storage.port import SchemaMismatch
from darkroom.storage.sealing import Keyring, KeyUnknown
from darkroom.upkeep.examination import Depth, Examination

_SOUND, _UNSOUND, _UNKNOWN = 0, 1, 2
"""Exit statuses: nothing wrong (any more), something wrong, no way to tell."""


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `fsck` to the command line."""
    parser = subparsers.add_parser(
        "fsck",
        help="look for whatever is wrong with an installation, running or not",
        description="Exit status: 0 if nothing is wrong or all of it was mended, 1 if something "
        "is wrong, 2 if that cannot be told.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mend", action="store_true", help="set right what can be without losing anything"
    )
    parser.add_argument(
        "--checksums", action="store_true", help="read every content and compare its checksum"
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="have qemu-img check the tables of every content; implies --checksums",
    )
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="how long something that a running installation may be about to tidy up has to stay "
        "as it is to count as wrong [default: one and a half leases]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    config.add_arguments(
        parser, ("data_dir", "database_url", "content_url", "secret_key_file", "lease_seconds")
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Examine, print and perhaps mend."""
    try:
        settings = config.load(arguments)
        store = wiring.open_existing_store(settings)
    except (OSError, SchemaMismatch, Failure) as error:
        return _cannot_tell(error)
    patience_seconds = arguments.patience
    if patience_seconds is None:
        patience_seconds = settings.lease_seconds * 1.5
    output = _Output(as_json=arguments.json)
    try:
        examination = Examination(
            store,
            wiring.open_contents(settings),
            settings.scratch_path,
            opens=_Opener(settings.secret_key_path).opens,
            patience_seconds=patience_seconds,
            depth=Depth(arguments.checksums, arguments.tables),
        )
        for finding in examination.findings():
            mended = arguments.mend and finding.can_mend and examination.mend(finding)
            output.found(finding, mended=mended)
    except (OSError, ValueError, Failure) as error:
        return _cannot_tell(error)
    finally:
        store.close()
    return output.end(examination.contents_checked)


def _cannot_tell(error: Exception) -> int:
    print(f"darkroom: cannot examine: {error}", file=sys.stderr)
    return _UNKNOWN


class _Opener:
    """Whether secrets can be read; a key file that is missing is not made here."""

    def __init__(self, path: Path) -> None:
        self._keyring = Keyring.load_or_create(path) if path.exists() else None

    def opens(self, operation_id: str, sealed: str) -> bool:
        if self._keyring is None:
            return False
        try:
            self._keyring.open(operation_id, sealed)
        except (KeyUnknown, ValueError):
            return False
        return True


class _Output:
    """Prints findings as they come, or all at the end as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._found: list[dict[str, Any]] = []

    def found(self, finding: Finding, *, mended: bool) -> None:
        self._found.append(
            {
                "check": finding.check,
                "subject": finding.subject,
                "text": finding.text,
                "can_mend": finding.can_mend,
                "mended": mended,
            }
        )
        if not self._as_json:
            end = " (mended)" if mended else " (--mend sets it right)" if finding.can_mend else ""
            print(f"{finding.check}: {finding.subject} {finding.text}{end}", flush=True)

    def end(self, contents: int) -> int:
        """Print the last word; the exit status."""
        left = [each for each in self._found if not each["mended"]]
        if self._as_json:
            report = {"sound": not left, "contents": contents, "findings": self._found}
            print(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            mended = len(self._found) - len(left)
            words = f"{len(left)} wrong, {mended} mended" if self._found else "nothing is wrong"
            print(f"{contents} contents looked at: {words}")
        return _UNSOUND if left else _SOUND
