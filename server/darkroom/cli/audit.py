"""`darkroom audit`: who did what."""

import argparse
import datetime
import json
import re
import time
from collections.abc import Iterator

from darkroom import config, wiring
from darkroom.cli.command import Subparsers
from darkroom.domain.audit import AuditEntry
from darkroom.storage.port import MetadataStore

_PAGE = 500
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `audit` to the command line."""
    parser = subparsers.add_parser("audit", help="list who did what", allow_abbrev=False)
    parser.add_argument("--subject", default="", metavar="ID", help="only what this subject did")
    parser.add_argument("--resource", default="", metavar="ID", help="only what was done to it")
    parser.add_argument(
        "--since",
        type=_since_us,
        default=0,
        metavar="WHEN",
        help="RFC 3339, or how long ago: 90s, 15m, 24h, 7d [default: everything]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    config.add_arguments(parser, ("data_dir", "database_url"))
    parser.set_defaults(run=run)


def _since_us(text: str) -> int:
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if ago:
        return int((time.time() - int(ago[1]) * _UNITS[ago[2]]) * 1_000_000)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "must be RFC 3339, or a number with s, m, h or d"
        ) from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("must say its time zone, as in 2026-01-31T12:00:00Z")
    return int(moment.timestamp() * 1_000_000)


def run(arguments: argparse.Namespace) -> int:
    """0 when all is printed. Raises `SettingError`, `OSError`, `SchemaMismatch`, `Failure`."""
    store = wiring.open_existing_store(config.load(arguments))
    try:
        for entry in _entries(store, arguments):
            print(json.dumps(_document(entry)) if arguments.json else _line(entry))
    finally:
        store.close()
    return 0


def _entries(store: MetadataStore, arguments: argparse.Namespace) -> Iterator[AuditEntry]:
    after = (arguments.since, "")
    wanted = {"subject_id": arguments.subject, "resource_id": arguments.resource}
    while found := store.list_audit(after, _PAGE, **wanted):
        yield from found
        after = (found[-1].at_us, found[-1].id)


def _time(entry: AuditEntry) -> str:
    moment = datetime.datetime.fromtimestamp(entry.at_us / 1_000_000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _document(entry: AuditEntry) -> dict[str, str]:
    values = {name: str(value) for name, value in vars(entry).items() if name != "at_us"}
    return {"time": _time(entry), **values}


def _line(entry: AuditEntry) -> str:
    result = f"{entry.result} {entry.reason}".strip()
    subject = f"{entry.subject_type}:{entry.subject_id}".strip(":")
    place = entry.resource_id or f"folder {entry.folder_id}"
    return f"{_time(entry)}  {subject}  {entry.action}  {place}  {result}  {entry.request_id}"
