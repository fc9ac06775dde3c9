"""`darkroom healthcheck`: one question to the health service, for probes without a shell."""

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from darkroom import config
from darkroom.cli.command import Subparsers

_STATES = health_pb2.HealthCheckResponse


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `healthcheck` to the command line."""
    parser = subparsers.add_parser(
        "healthcheck", help="ask once whether the server is SERVING; for probes"
    )
    config.add_arguments(parser, ("listen",))
    parser.add_argument(
        "--service",
        default="",
        metavar="NAME",
        help="a service's full name, or `liveness`; default: all services",
    )
    parser.add_argument(
        "--timeout", type=float, default=2.0, metavar="SECONDS", help="wait this long at most"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 if the answer is SERVING; 1 if it is another one or none."""
    address = config.load(arguments).listen
    with grpc.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=arguments.service),
                timeout=arguments.timeout,
                # What is about to listen may be answered within the time that there is.
                wait_for_ready=True,
            )
        except grpc.RpcError as error:
            answer = error.code().name
        else:
            answer = _STATES.ServingStatus.Name(reply.status)
            if reply.status == _STATES.SERVING:
                return 0
    print(f"darkroom: {address} is not serving: {answer}", file=sys.stderr)
    return 1
