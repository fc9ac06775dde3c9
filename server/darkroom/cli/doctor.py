"""`darkroom doctor`: look at a running installation from outside and say what to do."""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from darkroom import config
from darkroom.cli import installation
from darkroom.cli.checks import Finding, State, failed, listeners, machine
from darkroom.cli.command import Subparsers
from darkroom.config import Settings

_SECONDS = 3.0


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `doctor` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="check a running installation and say what to do",
        description="Takes the settings that the server was started with. The exit status is 1 "
        "if a check has failed.",
        allow_abbrev=False,
    )
    config.add_arguments(parser)
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="PEM file of the authority that clients trust"
    )
    for name, what in (("certificate", "certificate"), ("key", "key of that certificate")):
        parser.add_argument(
            f"--client-{name}",
            type=Path,
            metavar="FILE",
            help=f"PEM file of the {what} to show to a listener with --tls-client-ca",
        )
    parser.add_argument(
        "--timeout",
        type=float,
        default=_SECONDS,
        metavar="SECONDS",
        help="longest wait for one answer [default: %(default)s]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 unless a check has failed."""
    settings = installation.settings(arguments)
    pair = (arguments.client_certificate, arguments.client_key)
    if pair.count(None) == 1:
        print("darkroom: --client-certificate and --client-key: both or neither", file=sys.stderr)
        return 2
    shown = None if None in pair else listeners.ClientCertificate(*pair)
    found = findings(settings, arguments.ca, arguments.timeout, shown)
    if arguments.json:
        made = list(found)
        healthy = not any(each.state is State.FAILED for each in made)
        print(json.dumps({"ok": healthy, "checks": [_document(each) for each in made]}, indent=2))
        return 0 if healthy else 1
    healthy = True
    for each in found:
        healthy &= each.state is not State.FAILED
        advice = f" - {each.advice}" if each.advice else ""
        print(f"{each.state.value:<8} {each.check:<22} {each.found}{advice}", flush=True)
    if not healthy:
        print("darkroom: something does not work, see above", file=sys.stderr)
    return 0 if healthy else 1


def findings(
    settings: Settings,
    ca: Path | None,
    seconds: float,
    shown: listeners.ClientCertificate | None = None,
) -> Iterator[Finding]:
    """Everything that is looked at, in order."""
    for check in chain(
        machine.findings(settings, seconds), listeners.findings(settings, ca, seconds, shown)
    ):
        try:
            yield from check()
        except Exception as error:  # one broken check must not hide what the others find
            yield failed("doctor", f"a check broke: {type(error).__name__}", "report this fault")


def _document(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "state": finding.state.value,
        "found": finding.found,
        "advice": finding.advice,
    }
