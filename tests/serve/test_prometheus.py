"""Dashboard and alerts: every query and rule, by Prometheus, of a server that runs."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serve.client import Client
from tests.serve.servers import served, until
from tests.support.commands import free_port
from tests.support.language import small_model_folder

prometheus_client = pytest.importorskip("prometheus_client")
pytest.importorskip("fastapi")

from tokenring_xdit.parallel import ParallelDims  # noqa: E402
from tokenring_xdit.serve.engine_owner import EngineOwner  # noqa: E402
from tokenring_xdit.serve.gpus import management_library  # noqa: E402
from tokenring_xdit.serve.metrics import Meters  # noqa: E402
from tokenring_xdit.serve.queue import JobQueue  # noqa: E402

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/tokenring.json").read_text())
RULES = ROOT / "deploy/prometheus/alerts.yml"
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
FIRING = Path(__file__).parent / "alerts_test.yml"

KINDS = {"Pictures and videos": "image", "Language models": "text", "GPUs": "gpu"}
"""Rows of the dashboard that are about one kind of model, or about what is not here."""


def queries(kind: str) -> list[str]:
    """Those of the dashboard that are about a kind of model, or about all."""
    found, row = [], ""
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        elif KINDS.get(row, kind) == kind:
            found += [target["expr"] for target in panel["targets"]]
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def known_names(kind: str) -> set[str]:
    """Names of all that a server says."""
    queue = JobQueue(1)
    meters = Meters(ParallelDims(tokenring=2), queue, kind)
    observer: Any = meters
    meters.watch(EngineOwner(lambda: 1 // 0, queue, observer, observer))
    names = set()
    for family in meters.registry.collect():
        suffixes = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return names


def names_in(text: str) -> set[str]:
    return set(re.findall(r"tokenring_\w+", text))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_nothing_is_asked_that_no_server_says(kind: str) -> None:
    asked = names_in(" ".join(queries(kind)))
    assert asked
    assert asked <= known_names(kind)
    assert names_in(RULES.read_text()) <= known_names("image") & known_names("text")


def test_the_dashboard_asks_for_all_that_servers_say() -> None:
    shown = {re.sub("_(sum|count)$", "_bucket", name) for kind in ("image", "text") for name in known_names(kind)}
    assert names_in(" ".join(queries("image") + queries("text"))) == shown
    documented = names_in((ROOT / "docs/serving.md").read_text().partition("## Metrics")[2])
    assert {name.removesuffix("_bucket") for name in shown} == documented


def test_panels_stand_side_by_side_and_their_targets_have_names() -> None:
    places = [tuple(panel["gridPos"][each] for each in "xy") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    for panel in DASHBOARD["panels"]:
        assert len({target["refId"] for target in panel.get("targets", [])}) == len(panel.get("targets", []))


@pytest.fixture(scope="module")
def programs(request: pytest.FixtureRequest) -> Path:
    """The folder with ``prometheus`` and ``promtool``: of this machine, or of Debian's package, which is unpacked."""
    if found := shutil.which("promtool"):
        return Path(found).parent
    if shutil.which("apt-get") is None:
        pytest.skip("there is neither promtool nor apt-get here")
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("prometheus")
    if not (folder / "usr/bin/promtool").exists():
        done = subprocess.run(
            ["apt-get", "download", "prometheus"], cwd=folder, check=False, capture_output=True, text=True
        )
        packages = list(folder.glob("prometheus_*.deb"))
        if not packages:
            pytest.skip(f"Debian's package prometheus cannot be had: {done.stderr.strip()[-200:]}")
        subprocess.run(["dpkg", "-x", packages[0].name, "."], cwd=folder, check=True)
    return folder / "usr/bin"


@pytest.mark.e2e
def test_alerts_fire_when_they_should(programs: Path) -> None:
    for words in (["check", "rules", str(RULES)], ["test", "rules", str(FIRING)]):
        done = subprocess.run([programs / "promtool", *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = {
        case["alertname"] for each in yaml.safe_load(FIRING.read_text())["tests"] for case in each["alert_rule_test"]
    }
    assert tested == {rule["alert"] for rule in alerts()}


class Watcher:
    """Asks Prometheus."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **words: str) -> Any:
        """What it answers."""
        with urllib.request.urlopen(f"{self._address}{path}?{urllib.parse.urlencode(words)}", timeout=120) as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success"
        return found["data"]

    def values(self, query: str) -> list[float]:
        """Numbers that a query has now."""
        for name, value in (("$__rate_interval", "1m"), ("$instance", ".*")):
            query = query.replace(name, value)
        found = [float(each["value"][1]) for each in self.ask("/api/v1/query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def up(self) -> bool:
        """Whether it has heard of the server."""
        try:
            return self.values("up") == [1]
        except OSError:
            return False


@contextmanager
def watched(programs: Path, folder: Path, port: int) -> Iterator[Watcher]:
    """Prometheus with the config that is shipped, every half a second, once it has heard of a server on a port."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = dict.fromkeys(config["global"], "500ms")
    config["rule_files"] = [str(CONFIG.parent / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    listening = free_port()
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    words += [f"--web.listen-address=127.0.0.1:{listening}", "--log.level=warn"]
    with subprocess.Popen([programs / "prometheus", *words], cwd=folder) as process:
        try:
            watcher = Watcher(listening)
            until(watcher.up)
            yield watcher
        finally:
            process.kill()


def draw(client: Client) -> None:
    assert client.draw(size="64x64", steps=3).status == 200


def draw_and_leave(client: Client) -> None:
    connection = client.begin("gone", size="64x64", steps=500)
    until(lambda: (client.status("gone") or {}).get("step", 0) >= 1)
    connection.close()
    until(lambda: client.status("gone")["status"] == "cancelled")


def answer(client: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 8}
    assert client.ask("POST", "/v1/chat/completions", body).status == 200


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["image", pytest.param("text", marks=pytest.mark.matrix)])
def test_every_query_and_every_rule_has_an_answer(programs: Path, tmp_path: Path, kind: str) -> None:
    model = "embedded"
    if kind == "text":
        model = str(tmp_path / "small")
        small_model_folder(model)
    with served(tmp_path, Path(model).name, model) as server:
        process, client = server
        with watched(programs, tmp_path, client.port) as watcher:
            ask = draw if kind == "image" else answer
            for _ in range(3):
                ask(client)
            if kind == "image":
                draw_and_leave(client)
            until(lambda: watcher.values(f'tokenring_requests_total{{kind="{kind}",outcome="done"}}') == [3])
            for query in queries(kind):
                # Rates are of the last minute, and of what came after the first look at it: both may be over.
                until(lambda query=query: watcher.values(query) or ask(client))  # type: ignore[misc]
            hardware = [query for query in queries("gpu") if "hw_gpu_" in query]
            assert len(hardware) == 6
            if management_library() is None:  # they are absent, and not zero
                assert not any(watcher.values(query) for query in hardware)
            known = {rule["name"]: rule for group in watcher.ask("/api/v1/rules")["groups"] for rule in group["rules"]}
            assert known.keys() == {rule["alert"] for rule in alerts()}
            assert {rule["health"] for rule in known.values()} == {"ok"}
            assert "firing" not in {rule["state"] for rule in known.values()}
            process.kill()
            until(lambda: watcher.values("ALERTS{alertname='TokenringDown',alertstate='pending'}"))
