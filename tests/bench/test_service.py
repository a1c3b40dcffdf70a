"""Sweeps of level ``service``: who comes when, what is refused, a real server, and what ``bench diff`` says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench.report.samples import record
from tests.support.commands import fault
from tokenring_xdit.bench import Case, Status, Strategy, SweepConfig, Verdict, compare, read_records, run_sweep, serving
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.bench.service import ServiceShape
from tokenring_xdit.cli import main
from tokenring_xdit.errors import ConfigurationError, LaunchError

BASE: dict[str, Any] = {"level": "service", "models": "embedded", "ranks": 2, "sizes": [64, "96x64"]}


def sweep(folder: Path, *strategies: str, **values: Any) -> SweepConfig:
    return SweepConfig.model_validate({**BASE, "strategies": strategies, "output": str(folder), **values})


def shape(**more: Any) -> ServiceShape:
    values = {"ranks": 2, "model": "embedded", "sizes": ["64x64", "96x64"], "steps": 2, "dtype": "float32"}
    return ServiceShape.of(**{**values, "prompt": "a", "guidance": 1.0, "rate": 4.0, "requests": 200, **more})


def test_clients_come_at_the_rate_that_was_said_and_ask_for_each_size_as_often() -> None:
    came = shape().arrivals(0, 1)
    assert [each.seconds for each in came] == sorted(each.seconds for each in came)
    assert came[0].seconds == 0.0
    assert came[-1].seconds == pytest.approx(200 / 4.0, rel=0.25)
    assert [each.size for each in came].count("96x64") == 100
    assert came == shape().arrivals(0, 1) != shape().arrivals(0, 2)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("single", None),
        ("schedule:direct:chunks=2", None),
        ("xfuser-ring", "xfuser-ring is not served: use single, ulysses"),
        ("captured+ulysses", "is not served"),
        ("diffusers-ring", "is not served"),
        ("balanced", "is not served"),
        ("ulysses=2+schedule:token_ring", "does not fit 2 ranks"),
    ],
)
def test_what_is_served(strategy: str, message: str | None) -> None:
    refusal = Case(shape(), Strategy.parse(strategy)).refusal()
    assert refusal is None if message is None else message in (refusal or "")


def test_sizes_are_mixed_and_rates_are_compared_one_by_one(tmp_path: Path) -> None:
    shapes = list(sweep(tmp_path, "single", rates=[1, 2.5]).comparisons())
    assert [(one.size, one.rate) for one in shapes if isinstance(one, ServiceShape)] == [
        ("64x64+96x64", 1.0),
        ("64x64+96x64", 2.5),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": "mesh:2:100mbit"}, "servers are measured on this machine's loopback"),
        ({"level": "pipeline", "rates": 1}, "rates: belongs to level service"),
        ({"rates": 0}, "rates"),
        ({"tokens": 64}, "tokens: belongs to level attention or text"),
        ({"sizes": None}, "sizes: is missing"),
    ],
)
def test_what_cannot_be(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, ConfigurationError), match=message):
        run_sweep(sweep(tmp_path, "single", **values))


@pytest.mark.parametrize(
    ("field", "name"),
    [("p95_seconds", "p95"), ("first_step_seconds", "time to first step"), ("per_request_seconds", "throughput")],
)
def test_diff_tells_which_figure_became_worse(field: str, name: str) -> None:
    same = {"p95_seconds": 2.0, "first_step_seconds": 0.5, "per_request_seconds": 1.0}

    def of(figures: dict[str, float]) -> Any:
        spreads = {each: Spread.of([value, 1.01 * value]) for each, value in figures.items()}
        return record(level="service", seconds=[1.0, 1.01], **spreads)

    (worse,) = compare([of(same)], [of({**same, field: 1.2 * same[field]})])
    assert (worse.verdict, worse.figures) == (Verdict.SLOWER, (name,))
    (better,) = compare([of({**same, field: 1.2 * same[field]})], [of(same)])
    assert (better.verdict, better.figures) == (Verdict.FASTER, (name,))
    (neither,) = compare([of(same)], [of({**same, field: 1.02 * same[field]})])
    assert (neither.verdict, neither.figures) == (Verdict.SAME, ())


SAYS_PORT = "print('serving a model on http://127.0.0.1:1', flush=True)\n"
SLEEPS = "import pathlib, time\ntime.sleep(30)\npathlib.Path({!r}).touch()\n"
ANSWERS = """
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.send_error(500, "out of order")
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
pathlib.Path({!r}, str(os.getpid())).touch()
print(f"serving a model on http://127.0.0.1:{{server.server_port}}", flush=True)
server.serve_forever()
"""


def server_with(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, timeout: float) -> serving._MeasuredServer:
    """A server that is started with a fault."""
    faulty(code, folder, monkeypatch)
    return serving._MeasuredServer(Case(shape(), Strategy.parse("single")), timeout)


def faulty(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Python processes that are started from now on run code first."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([fault(folder, code)["PYTHONPATH"], *filter(None, sys.path)]))


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    woke = tmp_path / "woke"
    server = server_with(SLEEPS.format(str(woke)), tmp_path, monkeypatch, 0.5)
    with pytest.raises(LaunchError, match="the server did not get ready"):
        server.__enter__()
    assert server._process.poll() is not None
    assert not woke.exists()


def test_a_server_is_not_left_behind_where_loading_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_with(SAYS_PORT + SLEEPS.format(str(tmp_path / "woke")), tmp_path, monkeypatch, 60)

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.__enter__()
    assert server._process.poll() is not None


def test_a_measured_server_asks_for_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRING_API_KEY", "secret")
    code = "import os\nraise SystemExit(f\"key: {os.environ.get('TOKENRING_API_KEY')}\")"
    with pytest.raises(LaunchError, match="key: None"):
        server_with(code, tmp_path, monkeypatch, 60).__enter__()


def test_a_server_that_failed_does_not_run_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    faulty(ANSWERS.format(str(pids)), tmp_path, monkeypatch)
    monkeypatch.setattr(serving, "_drawn_alone", lambda *_: [])
    running = []

    def seen(step: str) -> None:
        running.append([each.name for each in pids.iterdir() if psutil.pid_exists(int(each.name))])

    cases = [Case(shape(), Strategy.parse(each)) for each in ("single", "schedule:direct")]
    found = serving.compare_services(shape(), cases, seed=0, warmup=0, rounds=1, timeout=60, on_step=seen)
    assert all("a request was not served" in str(found[case]) for case in cases)
    assert len(list(pids.iterdir())) == 2
    assert running == [[], [], []]


@pytest.mark.e2e
def test_a_server_is_measured_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENRING_API_KEY", "of another server")
    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        pytest.importorskip(package)
    config = sweep(tmp_path, "schedule:direct", "xfuser-ring", rates=50, requests=4, rounds=2, warmup=0)
    outcome = run_sweep(config)
    refused, found = outcome.records
    assert refused.status is Status.REFUSED
    assert found.status is Status.OK, found.error
    assert found.max_error is not None
    assert found.max_error <= 1.01 / 255  # pixels of eight bits
    assert found.checked_rows == 64 * 64 + 96 * 64
    assert found.seconds is not None
    assert found.first_step_seconds is not None
    assert found.p95_seconds is not None
    assert found.per_request_seconds is not None
    assert len(found.seconds.rounds) == 2
    assert 0 < found.first_step_seconds.median < found.seconds.median <= found.p95_seconds.median
    assert found.per_request_seconds.median < found.p95_seconds.median  # four come almost at once, one is served

    other = tmp_path / "worse.jsonl"
    slower = Spread.of([10 * each for each in found.p95_seconds.rounds])
    other.write_text(found.model_copy(update={"p95_seconds": slower}).model_dump_json() + "\n")
    assert main(["bench", "diff", str(outcome.results), str(outcome.results)]) == 0
    capsys.readouterr()
    assert main(["bench", "diff", str(outcome.results), str(other)]) == 1
    assert "(p95)" in capsys.readouterr().out
    assert json.loads(outcome.results.read_text().splitlines()[1])["rate"] == 50
    assert read_records(outcome.results) == outcome.records


def test_there_is_nothing_to_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["models=embedded", "ranks=2", "sizes=64", "strategies=single", f"output={tmp_path}"]
    file = tmp_path / "sweep.yaml"
    file.write_text("level: service\n")
    assert main(["bench", str(file), *said, "--trace"]) == 2
    assert "--trace records calls of ranks, and level service measures servers" in capsys.readouterr().err
