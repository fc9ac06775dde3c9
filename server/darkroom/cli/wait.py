"""`darkroom wait`: block until a server is SERVING."""

import argparse
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from darkroom import config
from darkroom.cli.command import Subparsers

_POLL_SECONDS = 0.05


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `wait` to the command line."""
    parser = subparsers.add_parser("wait", help="return 0 once the server is SERVING")
    config.add_arguments(parser, ("listen",))
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="give up after this long"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when the health service says SERVING, 1 after the timeout."""
    address = config.load(arguments).listen
    deadline = time.monotonic() + arguments.timeout
    answer = "no answer"
    # Local subchannels: a fresh attempt each time instead of gRPC's growing back-off.
    with grpc.insecure_channel(
        address,
        options=[("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)],
    ) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        while (left := deadline - time.monotonic()) > 0:
            try:
                reply = check(health_pb2.HealthCheckRequest(), timeout=min(left, 1.0))
                answer = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return 0
            except grpc.RpcError as error:
                answer = error.code().name
            time.sleep(_POLL_SECONDS)
    print(f"darkroom: {address} is not serving: {answer}", file=sys.stderr)
    return 1
