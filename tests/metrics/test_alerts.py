"""The dashboard and the alert rules in docs/monitoring: promtool accepts them, they use real metrics, and each alert fires."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

from pathlib import Path

import pytest

from metrics.test_prometheus import NAMES


FOLDER = Path(__file__).parents[2] / "docs" / "monitoring"
RULES, DASHBOARD = FOLDER / "pitstop-alerts.yml", FOLDER / "pitstop-dashboard.json"
LEASES = 'pitstop_messages_settled_total{kind="mail",outcome="lost"}'
#: By the name of an alert: series of a minute per step that let it fire, and others that do not. The notation is promtool's.
SERIES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "PitstopLate": (
        {
            'pitstop_delivery_lateness_seconds_bucket{le="60.0"}': "0+90x60",
            'pitstop_delivery_lateness_seconds_bucket{le="300.0"}': "0+100x60",
            'pitstop_delivery_lateness_seconds_bucket{le="+Inf"}': "0+100x60",
        },
        {
            'pitstop_delivery_lateness_seconds_bucket{le="60.0"}': "0+99x60",
            'pitstop_delivery_lateness_seconds_bucket{le="300.0"}': "0+100x60",
            'pitstop_delivery_lateness_seconds_bucket{le="+Inf"}': "0+100x60",
        },
    ),
    "PitstopBacklog": ({"pitstop_oldest_due_age_seconds": "0+60x60"}, {"pitstop_oldest_due_age_seconds": "100x60"}),
    "PitstopStoreErrors": ({"pitstop_store_errors_total": "0+60x60"}, {"pitstop_store_errors_total": "0+1x60"}),
    "PitstopListenerStuck": (
        {"pitstop_listener_last_poll_timestamp_seconds": "0x60"},
        {"pitstop_listener_last_poll_timestamp_seconds": "0+60x60"},
    ),
    "PitstopMessagesDead": (
        {'pitstop_messages_settled_total{kind="mail",outcome="dead"}': "0x25 1x35"},
        {'pitstop_messages_settled_total{kind="mail",outcome="nacked"}': "0+5x60"},
    ),
    "PitstopLeasesLost": (
        {LEASES: "0+10x60", LEASES.replace("lost", "acked"): "0+90x60"},
        {LEASES: "0+1x60", LEASES.replace("lost", "acked"): "0+90x60"},
    ),
    "PitstopClockSkew": ({"pitstop_clock_skew_seconds": "-45x60"}, {"pitstop_clock_skew_seconds": "5x60"}),
}


@pytest.fixture(scope="module")
def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip(
            "NO PROMTOOL, the alert rules in docs/monitoring are not checked: install Debian's package prometheus"
        )

    def run(*arguments: object) -> str:
        done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_promtool_accepts_the_rules(promtool):
    assert f"SUCCESS: {len(SERIES)} rules found" in promtool("check", "rules", RULES)


def test_promtool_accepts_the_expressions_of_the_dashboard(promtool, tmp_path):
    rules = [
        {"record": f"panel:{n}", "expr": each.replace("$__rate_interval", "5m").replace("$job", ".*")}
        for n, each in enumerate(expressions())
    ]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def test_both_use_metrics_that_exist_and_every_metric_is_on_the_dashboard():
    used = set(re.findall(r"pitstop_\w+", " ".join(expressions())))
    assert used <= NAMES.keys()
    assert set(re.findall(r"pitstop_\w+", " ".join(re.findall(r"expr: (.*)", RULES.read_text())))) <= NAMES.keys()
    assert {re.sub("_(count|sum)$", "_bucket", name) for name in NAMES} == used


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("fires", [True, False])
def test_an_alert_fires_when_it_should(promtool, tmp_path, name, fires):
    series_of_it = SERIES[name][0 if fires else 1]
    rules = RULES.read_text()
    (group,) = re.findall(rf"      - alert: {name}\n(?:        .*\n)+", rules)
    # Without annotations, because the test is about the expression.
    (tmp_path / "rules.yml").write_text(
        "groups:\n  - name: one\n    rules:\n" + re.sub(r"        annotations:\n(?:          .*\n)+", "", group)
    )
    severity = re.findall(r"severity: (\w+)", group)[0]
    labels = {"severity": severity, **({"kind": "mail"} if "by (kind)" in group else {})}
    expected = [{"exp_labels": labels}] if fires else []
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values} for series, values in series_of_it.items()],
                "alert_rule_test": [{"eval_time": "30m", "alertname": name, "exp_alerts": expected}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(test))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.yml")


def test_the_documents_name_each_alert_and_each_metric():
    page = (FOLDER.parent / "monitoring.md").read_text()
    assert set(re.findall(r"`(Pitstop[A-Z]\w+)`", page)) == set(re.findall(r"alert: (\w+)", RULES.read_text()))
    documented = set(re.findall(r"^\| `(pitstop_\w+)", page, re.MULTILINE))
    assert documented == {re.sub("_(count|sum|bucket)$", "", name) for name in NAMES}
