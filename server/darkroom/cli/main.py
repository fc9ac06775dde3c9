"""The `darkroom` command."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from darkroom.config import SettingError
from darkroom.domain.errors import Failure
from darkroom.storage.port import SchemaMismatch

_COMMANDS = (
    *("serve", "work", "migrate", "wait", "image", "fsck", "backup", "restore", "account", "audit"),
    *("gateway", "env", "doctor", "healthcheck", "dev", "demo"),
)


def parser(commands: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    """The command line; each command's module adds its own part."""
    result = argparse.ArgumentParser(
        prog="darkroom",
        description="A self-hosted image service that speaks the Yandex Compute Cloud API.",
        allow_abbrev=False,
    )
    subparsers = result.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in commands:
        import_module(f"darkroom.cli.{name}").add_parser(subparsers)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 for a bad setting, 1 for what is in its way."""
    given = sys.argv[1:] if arguments is None else arguments
    # Only the module of the command that runs: a worker needs no gRPC, and starts without it.
    commands = given[:1] if given and given[0] in _COMMANDS else _COMMANDS
    parsed = parser(commands).parse_args(given)
    try:
        return int(parsed.run(parsed))
    except SettingError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 2
    except (OSError, Failure, SchemaMismatch) as error:
        # A failure's own text is for users; what is behind it is for whoever types commands here.
        cause = f" ({error.__cause__})" if isinstance(error, Failure) and error.__cause__ else ""
        print(f"darkroom: {error}{cause}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
