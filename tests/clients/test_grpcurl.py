"""grpcurl: what is served is found by reflection, described with our comments, and called."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import pytest

from clients.grpcurl_steps import ANY, STEPS, Step
from installation import Installation, installation

GRPCURL = str(Path(sys.executable).with_name("grpcurl"))
VERSION = "1.8.6"


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation without workers: an import waits until it is cancelled."""
    folder = tmp_path_factory.mktemp("idle")
    settings = {"DARKROOM_WORKERS": "0", "DARKROOM_TLS_LISTEN": "127.0.0.1:0"}
    with installation(folder, "http://127.0.0.1:9", **settings) as running:
        yield running


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [GRPCURL, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def printed(*arguments: str) -> str:
    """What grpcurl prints; it must succeed."""
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def first_message(served: Installation, method: str) -> Any:
    """The first message of a stream that does not end."""
    command = [GRPCURL, "-plaintext", served.address, method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stream:
        try:
            assert stream.stdout is not None
            lines: list[str] = []
            while not lines or lines[-1] != "}\n":
                lines.append(stream.stdout.readline())
                assert lines[-1], "the stream has ended"
        finally:
            stream.terminate()
    return json.loads("".join(lines))


def served_methods(address: str) -> set[str]:
    """Every method of every service that reflection lists."""
    services = printed("-plaintext", address, "list").split()
    listed = [printed("-plaintext", address, "list", each) for each in services]
    return {"/".join(name.rsplit(".", 1)) for names in listed for name in names.split()}


def filled(value: Any, kept: dict[str, str]) -> Any:
    """A request or an expected answer with what the names in it stand for."""
    match value:
        case dict():
            return {key: filled(each, kept) for key, each in value.items()}
        case list():
            return [filled(each, kept) for each in value]
        case str():
            return Template(value).substitute(kept)
    return value


def holds(answer: Any, expected: Any) -> bool:
    """Whether an answer has all that is expected; what else it has is of no interest."""
    if expected is ANY:
        return bool(answer)
    if expected == {}:
        return bool(answer == {})
    match expected:
        case dict():
            return isinstance(answer, dict) and all(
                key in answer and holds(answer[key], each) for key, each in expected.items()
            )
        case list():
            return (
                isinstance(answer, list)
                and len(answer) == len(expected)
                and all(map(holds, answer, expected))
            )
    return bool(answer == expected)


def at(answer: Any, path: str) -> str:
    """The text at a dotted path."""
    for name in path.split("."):
        answer = answer[int(name)] if name.isdigit() else answer[name]
    return str(answer)


def take(step: Step, served: Installation, kept: dict[str, str]) -> None:
    """Make the call, judge the answer and keep what later steps need."""
    request = json.dumps(filled(step.request, kept))
    if step.method.endswith("/Watch"):
        answer = first_message(served, step.method)
    else:
        call = run("-plaintext", "-d", request, served.address, step.method)
        if step.refused:
            assert call.returncode != 0, call.stdout
            assert f"Code: {step.refused}\n" in call.stderr, call.stderr
            return
        assert call.returncode == 0, f"{step.method}\n{call.stderr}"
        answer = json.loads(call.stdout)
    expected = filled(step.answer, kept)
    assert holds(answer, expected), f"{step.method} {request}\n{answer}\nlacks\n{expected}"
    kept.update({name: at(answer, path) for name, path in step.keep.items()})


@pytest.mark.client(
    "grpcurl",
    VERSION,
    "with reflection v1alpha: lists and describes all services, calls each of their methods",
    "ran",
)
def test_grpcurl_calls_every_method_that_is_served(idle: Installation) -> None:
    assert f"grpcurl v{VERSION}" in run("-version").stderr
    assert {step.method for step in STEPS} == served_methods(idle.address)
    kept = {"address": idle.address}
    for step in STEPS:
        take(step, idle, kept)


def test_grpcurl_describes_every_method_with_its_comment(idle: Installation) -> None:
    methods = {each for each in served_methods(idle.address) if each.startswith("yandex.")}
    described = set()
    for service in sorted({each.partition("/")[0] for each in methods}):
        lines = printed("-plaintext", idle.address, "describe", service).splitlines()
        for before, line in pairwise(lines):
            if line.startswith("  rpc "):
                assert before.startswith("  // "), f"{service}: {line}"
                described.add(f"{service}/{line.split()[1]}")
    assert described == methods


def test_grpcurl_trusts_the_development_authority(idle: Installation) -> None:
    endpoint = idle.tls_endpoint
    ca_file = str(idle.ca_file)
    method = "yandex.cloud.endpoint.ApiEndpointService/Get"
    request = '{"apiEndpointId": "iam"}'
    answer = printed("-cacert", ca_file, "-d", request, endpoint, method)
    assert json.loads(answer) == {"id": "iam", "address": endpoint}
