"""Which installation a command is about: that of the settings, or a running development stack."""

import argparse
import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from darkroom import config
from darkroom.cli.dev import DATA_DIR
from darkroom.cli.stack import Stack, StackError
from darkroom.config import Settings

_ANY = ("0.0.0.0", "[::]")  # noqa: S104 - recognised, not listened on


def settings(
    arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> Settings:
    """The settings of the installation that runs here.

    Where nothing says otherwise, that is the development stack of the current folder, if one runs;
    of any stack the addresses are those that it has chosen. Raises `SettingError`.
    """
    given = config.load(arguments, environment)
    if not _is_given("data_dir", arguments, environment):
        with contextlib.suppress(StackError):
            Stack.running(DATA_DIR)
            given = replace(given, data_dir=DATA_DIR)
    try:
        stack = Stack.running(given.data_dir)
    except StackError:
        return given
    chosen: dict[str, Any] = {
        "listen": stack.listen,
        "tls_listen": stack.tls_listen,
        "gateway_listen": stack.gateway_listen,
        "source_allow": (f"{stack.storage_url}/",),
    }
    return replace(
        given,
        **{
            name: value
            for name, value in chosen.items()
            if not _is_given(name, arguments, environment)
        },
    )


def _is_given(name: str, arguments: argparse.Namespace, environment: Mapping[str, str]) -> bool:
    return getattr(arguments, name, None) is not None or config.variable(name) in environment


def reachable(address: str) -> str:
    """The address of a listener as a client on this machine writes it; empty for none."""
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    return f"localhost:{port}" if host in _ANY else address
