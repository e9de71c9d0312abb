"""The dashboard for Grafana: every query of it, asked of a Prometheus that scrapes our own page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.demo.loopback import free_ports
from adapters.service.prometheus import serve_metrics
from tests.app.contract.test_metrics import full_sources
from tests.builders.reception import wait_for

DASHBOARD = json.loads((Path(__file__).parents[3] / "deploy/grafana/radclipd.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$instance": ".*", "$__rate_interval": "5s"}
SCRAPES = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs: [{{job_name: radclipd, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


def ask(address: str, expression: str) -> list[Any]:
    """Return the samples of an expression. HTTPError where Prometheus refuses it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return list(json.load(answer)["data"]["result"])


def is_filled(address: str) -> bool:
    try:
        return bool(ask(address, "count_over_time(radclipd_catalog_up[1m]) >= 4"))
    except OSError:
        return False


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not here: Debian's prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    [own, port] = free_ports(2)
    with serve_metrics(full_sources(), address="127.0.0.1", port=own):
        (folder / "prometheus.yml").write_text(SCRAPES.format(port=own))
        words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", "--log.level=error"]
        process = subprocess.Popen([program, *words, f"--web.listen-address=127.0.0.1:{port}"])
        try:
            wait_for(lambda: is_filled(f"http://127.0.0.1:{port}"), seconds=30)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def test_every_query_has_an_answer(prometheus: str) -> None:
    assert len(EXPRESSIONS) > 20
    empty = [expression for expression in EXPRESSIONS if not ask(prometheus, expression)]
    assert empty == []
    [share] = ask(prometheus, next(expression for expression in EXPRESSIONS if "decision=" in expression))
    assert (share["metric"], share["value"][1]) == ({"finding": "Mass"}, "0.25")
    assert ask(prometheus, DASHBOARD["annotations"]["list"][0]["expr"]) == []  # the version has not changed


def test_panels_are_whole_and_do_not_overlap() -> None:
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    for panel in PANELS:
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["type"] in ("stat", "timeseries")
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), target["expr"]
