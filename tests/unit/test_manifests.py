"""What `make lint` refuses in deploy/kubernetes: pods that are killed for a drain or within one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import lint_manifests

BASE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "base"
SERVE = yaml.safe_load((BASE / "serve.yaml").read_text())
(SETTINGS,) = yaml.safe_load((BASE / "kustomization.yaml").read_text())["configMapGenerator"]


def problems(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> list[str]:
    """Of the API's deployment, once its pod and its container are changed."""
    deployment = copy.deepcopy(SERVE)
    pod = deployment["spec"]["template"]["spec"]
    change(pod, pod["containers"][0])
    data = dict(each.split("=", 1) for each in SETTINGS["literals"])
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}
    return list(lint_manifests.problems([deployment, config]))


def test_nothing_is_wrong_with_it_as_it_is() -> None:
    assert problems(lambda pod, container: None) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda pod, _: pod.update(terminationGracePeriodSeconds=45),
            "killed before it has drained",
        ),
        (
            lambda _, container: container["lifecycle"]["preStop"]["exec"].update(
                command=["sleep", "9"]
            ),
            "killed before it has drained",
        ),
        (
            lambda _, container: container["livenessProbe"]["grpc"].pop("service"),
            "livenessProbe must ask gRPC",
        ),
        (
            lambda _, container: container.update(startupProbe={"tcpSocket": {"port": "grpc"}}),
            "startupProbe must ask gRPC",
        ),
        (
            lambda _, container: container["readinessProbe"].update(failureThreshold=5),
            "refuses calls before its probe says so",
        ),
    ],
)
def test_what_is_wrong_is_told(change: Any, told: str) -> None:
    found = problems(change)
    assert found and all(told in each for each in found), found
