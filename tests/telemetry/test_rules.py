"""Rules and dashboard ask for nothing that is not there, and every alert says what to do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from darkroom import wiring
from darkroom.telemetry.metrics import Metrics
from house import House

ROOT = Path(__file__).resolve().parents[2]
RULES = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in ALL_RULES if "alert" in rule]
DASHBOARD = json.loads((ROOT / "deploy/grafana/darkroom.json").read_text())
NAME = re.compile(r"\b(?:darkroom|grpc_server|process|python)[a-z0-9_:]+")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The name of every sample that a server or a worker may show, and of every recording rule."""
    house = House(tmp_path_factory.mktemp("names") / "data")
    metrics = Metrics()
    metrics.serving_gauge()
    wiring.exposition(metrics, house.deployment)
    found = {rule["record"] for rule in ALL_RULES if "record" in rule}
    endings = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_count", "_sum"),
        "gauge": ("",),
        "info": ("_info",),
    }
    for family in metrics.registry.collect():
        found |= {family.name + ending for ending in endings[family.type]}
    house.deployment.close()
    return found


def queries(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_rules_and_dashboard_name_only_figures_that_exist(names: set[str]) -> None:
    asked = [rule["expr"] for rule in ALL_RULES] + queries(DASHBOARD["panels"])
    assert len(asked) > 40
    named = {name for query in asked for name in NAME.findall(query)}
    assert named - names == set()


def test_every_figure_of_ours_is_on_the_dashboard(names: set[str]) -> None:
    shown = " ".join(queries(DASHBOARD["panels"]))
    ours = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in names}
    ours = {name for name in ours if name.startswith(("darkroom_", "grpc_"))}
    assert {name for name in ours if name not in shown} == set()


def test_the_autoscaler_asks_for_what_the_adapter_offers(names: set[str]) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/adapter.yaml").read_text())["externalRules"]
    offered = {NAME.findall(rule["seriesQuery"])[0] for rule in rules}
    scale = ROOT / "deploy/kubernetes/overlays/scale/autoscaling.yaml"
    scaler = next(yaml.safe_load_all(scale.read_text()))
    asked = {each["external"]["metric"]["name"] for each in scaler["spec"]["metrics"]}
    assert asked == offered
    assert asked <= names


def test_the_dashboard_asks_the_data_source_that_is_chosen() -> None:
    sources = {
        target["datasource"]["uid"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    assert sources == {"${datasource}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_its_section(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor == alert["alert"].lower()
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert alert["alert"] in headings
    assert alert["labels"]["severity"] in ("page", "ticket")


def test_no_section_is_left_of_an_alert_that_is_gone() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    headings = re.findall(r"^#+ (Darkroom[A-Za-z]+)$", text, re.MULTILINE)
    assert sorted(headings) == sorted(alert["alert"] for alert in ALERTS)


def test_the_guide_names_the_port_that_is_scraped() -> None:
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text())
    (job,) = scrape["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert f"--metrics-listen {target}" in (ROOT / "docs/operations.md").read_text()
