"""Renders deploy/kubernetes offline and checks it against Kubernetes' schemas and our own settings.

usage: python tools/lint_manifests.py   exit 1 and name what is wrong
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from darkroom import config
from darkroom.api.health import LIVENESS
from darkroom.cli.drain import LEASE_SECONDS
from darkroom.telemetry.instruments import CLOSE_SECONDS

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = ("embedded", "scale")
VERSIONS = ("1.29", "1.37")
"""The oldest that is meant, for `ReadWriteOncePod`, and the newest that there are schemas of."""

Document = dict[str, Any]


def main() -> int:
    """Checks every overlay; returns the exit status."""
    wrong = [
        f"{overlay}: {problem}" for overlay in OVERLAYS for problem in problems(rendered(overlay))
    ]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def rendered(overlay: str) -> list[Document]:
    """The documents of an overlay. Raises `CalledProcessError` if it cannot be rendered."""
    folder = ROOT / "deploy/kubernetes/overlays" / overlay
    command = ["kubectl", "kustomize", str(folder)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def problems(documents: list[Document]) -> Iterator[str]:
    """What is wrong with the documents of one overlay, in words."""
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(map(str, error.absolute_path))
                yield f"{name} ({version}): {place}: {error.message}"
    settings = _settings(documents)
    known = {config.variable(field.name) for field in fields(config.Settings)}
    for variable in sorted(settings.keys() - known):
        yield f"{variable} is no setting"
    # As the program itself reads them. Raises `SettingError`.
    read = config.load(environment=settings)
    for document in documents:
        if document["kind"] == "Deployment":
            yield from _pod_problems(document, read)


def _settings(documents: list[Document]) -> dict[str, str]:
    return {
        name: value
        for document in documents
        if document["kind"] == "ConfigMap"
        for name, value in document["data"].items()
    }


def _pod_problems(deployment: Document, settings: config.Settings) -> Iterator[str]:
    name, pod = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain_seconds = LEASE_SECONDS + CLOSE_SECONDS
    if container["args"] == ["serve"]:
        drain_seconds += _pre_stop_seconds(container)
        drain_seconds += settings.drain_seconds + settings.grace_seconds
        for problem in _probe_problems(container, settings):
            yield f"{name}: {problem}"
    if pod["terminationGracePeriodSeconds"] <= drain_seconds:
        yield f"{name}: it is killed before it has drained, which may take {drain_seconds:g} s"


def _pre_stop_seconds(container: Document) -> float:
    """How long its hook takes. Raises `ValueError` for one that is no `sleep`."""
    program, *seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    if program != "sleep":
        raise ValueError(f"{program} takes nobody knows how long")
    return sum(map(float, seconds))


def _probe_problems(container: Document, settings: config.Settings) -> Iterator[str]:
    port = next(each["containerPort"] for each in container["ports"] if each["name"] == "grpc")
    wanted = {"startupProbe": LIVENESS, "livenessProbe": LIVENESS, "readinessProbe": ""}
    for probe, service in wanted.items():
        asked = container[probe].get("grpc", {})
        if (asked.get("port"), asked.get("service", "")) != (port, service):
            yield f"{probe} must ask gRPC on port {port} for the service {service!r}"
    readiness = container["readinessProbe"]
    noticed_seconds = readiness["periodSeconds"] * readiness["failureThreshold"]
    if settings.drain_seconds <= noticed_seconds + readiness["timeoutSeconds"]:
        yield "it refuses calls before its probe says so"


if __name__ == "__main__":
    sys.exit(main())
