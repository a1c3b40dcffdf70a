"""Real sweeps, on real ranks of this machine."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import chrome_trace, commands
from tokenring_xdit.bench import (
    RESULTS_FILE,
    TABLE_FILE,
    TIMELINES_FILE,
    TRACE_FILE,
    Outcome,
    Record,
    Status,
    SweepConfig,
    SweepStep,
    Verdict,
    compare,
    read_records,
    read_timelines,
    run_sweep,
)
from tokenring_xdit.bench.report import REPORT_FILE
from tokenring_xdit.cli import main
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.liveness import LIMIT_VARIABLE
from tokenring_xdit.schedule import Activity

pytestmark = pytest.mark.e2e

BASE: dict[str, Any] = {"ranks": 2, "tokens": 64, "heads": 4, "head_dim": 8, "rounds": 3}

EVERY = ["single", "ulysses", "xfuser-ring", "xfuser-ring-alltoall", "schedule:ring", "schedule:direct:chunks=4"]


def sweep(folder: Path, **values: Any) -> SweepConfig:
    return SweepConfig.model_validate({**BASE, "output": str(folder), **values})


def ranks_here(process: int | None = None) -> list[psutil.Process]:
    """Rank processes of a command, rank 0 first."""
    children = psutil.Process(process).children(recursive=True)
    found = [child for child in children if "tokenring_xdit.bench.rank" in child.cmdline()]
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def rank_here(rank: int) -> psutil.Process:
    """A rank process of this one, as soon as it can be seen."""
    end = time.monotonic() + 300
    while len(found := ranks_here()) <= rank:
        assert time.monotonic() < end, f"there is no rank {rank}"
        time.sleep(0.05)
    return found[rank]


def killing(what: str, *, rank: int) -> Callable[[SweepStep], None]:
    """Kill a rank just before a step, once."""
    killed: list[int] = []

    def on_step(step: SweepStep) -> None:
        if what in step.what and not killed:
            process = rank_here(rank)
            killed.append(process.pid)
            process.kill()

    return on_step


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[SweepStep]]:
    steps: list[SweepStep] = []
    folder = tmp_path_factory.mktemp("sweep")
    strategies = [*EVERY, "schedule:hierarchical:nodes=3"]
    return run_sweep(sweep(folder, strategies=strategies, batch=2), on_step=steps.append), steps


def ran(outcome: Outcome) -> dict[str, Record]:
    return {record.strategy: record for record in outcome.records if record.status is Status.OK}


def test_every_strategy_is_exact_and_has_its_figures(measured: tuple[Outcome, list[SweepStep]]) -> None:
    found = ran(measured[0])
    assert list(found) == EVERY
    for record in found.values():
        assert record.max_error is not None and 0 < record.max_error <= 1e-5
        assert record.checked_rows == 64
        assert record.seconds is not None and len(record.seconds.rounds) == 3
        assert record.beside == tuple(EVERY)
        assert record.machine["kernel"] == "cpu"
        assert record.machine["cores"] == os.cpu_count()
        assert record.link_bytes is None
        if record.strategy != "single":
            assert record.compute_seconds is not None and record.exposed_seconds is not None
            pairs = zip(record.seconds.rounds, record.compute_seconds.rounds, strict=True)
            assert record.exposed_seconds.rounds == pytest.approx([call - alone for call, alone in pairs])
    assert found["single"].exposed_seconds is None


def test_bytes_are_those_of_the_algorithm(measured: tuple[Outcome, list[SweepStep]]) -> None:
    block = 2 * 4 * 32 * 8 * 4  # bytes of one rank's queries
    found = ran(measured[0])
    assert found["single"].bytes_sent == (0, 0)
    for ring in ("xfuser-ring", "xfuser-ring-alltoall", "schedule:ring"):
        assert found[ring].bytes_sent == (2 * block,) * 2
    assert found["ulysses"].bytes_sent == (4 * block // 2,) * 2
    log_sum_exp = 2 * 4 * 32 * 4
    assert found["schedule:direct:chunks=4"].bytes_sent == (2 * block + log_sum_exp,) * 2


@pytest.mark.matrix
def test_fewer_queries_than_keys_are_exact_and_send_less(tmp_path: Path) -> None:
    strategies = [*EVERY, "ulysses=2+schedule:token_ring", "schedule:auto"]
    outcome = run_sweep(sweep(tmp_path, ranks=4, queries=8, strategies=strategies))
    found = ran(outcome)
    assert list(found) == strategies
    assert all(record.max_error is not None and record.max_error <= 1e-5 for record in found.values())
    keys, queries = 2 * 4 * 16 * 8 * 4, 4 * 2 * 8 * 4  # bytes of one rank's
    assert found["schedule:ring"].bytes_sent == (3 * keys,) * 4
    assert found["schedule:direct:chunks=4"].bytes_sent == (3 * (2 * queries + 4 * 2 * 4),) * 4
    assert {record.queries for record in found.values()} == {8}
    assert [found[name].schedule for name in ("xfuser-ring", "schedule:ring", strategies[-2])] == [
        None,
        "ring",
        "token_ring",
    ]
    assert found["schedule:auto"].schedule in {"heads", "direct:chunks=4", "bidirectional", "token_ring"}
    assert [entry.queries for entry in read_timelines(tmp_path / TIMELINES_FILE)] == [8] * len(strategies)


def test_memory_is_what_a_first_call_allocates(measured: tuple[Outcome, list[SweepStep]]) -> None:
    output = 2 * 4 * 32 * 8 * 4
    found = ran(measured[0])
    assert found["single"].peak_bytes is not None
    assert found["single"].peak_bytes[0] >= 2 * output
    assert found["single"].peak_bytes[1] == 0  # this rank has nothing to do
    for name in EVERY[1:]:
        peaks = found[name].peak_bytes
        assert peaks is not None and all(output <= peak <= 20 * output for peak in peaks)
    gathered = found["xfuser-ring"].peak_bytes
    assert gathered is not None and min(gathered) >= 4 * output + 2 * output  # all keys and values, and what is sent


def test_strategies_take_turns(measured: tuple[Outcome, list[SweepStep]]) -> None:
    _, steps = measured
    turns = [step.what for step in steps if step.what.startswith("turn ")]
    everybody = {"attention without communication", *EVERY}
    each = [turns[i : i + len(everybody)] for i in range(0, len(turns), len(everybody))]
    assert len(each) == 1 + 3  # one to warm up
    for number, turn in enumerate(each, 1):
        assert {what.partition(": ")[2] for what in turn} == everybody
        assert all(what.startswith(f"turn {number} of 4: ") for what in turn)
    orders = {tuple(what.partition(": ")[2] for what in turn) for turn in each}
    assert len(orders) == len(each)  # nobody is always behind the same one
    assert len({turn[0].partition(": ")[2] for turn in each}) > 1  # nor is anybody always first
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert all(step.done < step.total for step in steps)


def test_a_case_that_cannot_be_is_recorded_as_refused(measured: tuple[Outcome, list[SweepStep]]) -> None:
    (refused,) = (record for record in measured[0].records if record.status is Status.REFUSED)
    assert refused.strategy == "schedule:hierarchical:nodes=3"
    assert "nodes" in (refused.error or "")
    assert refused.seconds is None


def test_the_table_has_every_record(measured: tuple[Outcome, list[SweepStep]]) -> None:
    outcome = measured[0]
    with (outcome.results.parent / TABLE_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["strategy"] for row in rows] == [record.strategy for record in outcome.records]
    for row, record in zip(rows, outcome.records, strict=True):
        assert row["status"] == record.status.value
        assert row["median_s"] == ("" if record.seconds is None else str(record.seconds.median))
        assert (row["level"], row["model"], row["attention_s"]) == ("attention", "", "")


def test_every_case_that_ran_has_a_timeline(measured: tuple[Outcome, list[SweepStep]]) -> None:
    outcome = measured[0]
    timelines = read_timelines(outcome.results.with_name(TIMELINES_FILE))
    assert [entry.strategy for entry in timelines] == EVERY
    for entry in timelines:
        record = ran(outcome)[entry.strategy]
        assert (entry.tokens, entry.batch, entry.network) == (record.tokens, record.batch, record.network)
        assert entry.timeline.name == entry.strategy
        spans = entry.timeline.spans
        for rank in range(2):
            sent = sum(s.size for s in spans if (s.rank, s.activity) == (rank, Activity.SEND))
            assert record.bytes_sent is not None and sent == record.bytes_sent[rank]
            attends = sum((s.rank, s.activity) == (rank, Activity.ATTEND) for s in spans)
            in_pieces = 4 + 2  # the other rank's queries, and its own in halves
            expected = {"single": 1 - rank, "ulysses": 1, "schedule:direct:chunks=4": in_pieces}
            assert attends == expected.get(entry.strategy, 2)


def test_the_trace_of_a_sweep(measured: tuple[Outcome, list[SweepStep]], tmp_path: Path) -> None:
    """Nothing is left to run: what is there stays, and is written for viewers."""
    folder = measured[0].results.parent
    before = (folder / TIMELINES_FILE).read_bytes()
    config = tmp_path / "sweep.yaml"
    values = {**BASE, "strategies": EVERY, "batch": 2, "output": str(folder)}
    config.write_text(json.dumps(values))
    assert main(["bench", str(config), "--resume", "--trace"]) == 0
    assert (folder / TIMELINES_FILE).read_bytes() == before
    content = json.loads((folder / TRACE_FILE).read_text())
    chrome_trace.refuse(content)
    processes = [event["args"]["name"] for event in content["traceEvents"] if event["name"] == "process_name"]
    problem = "64 tokens, 4 heads of 8, batch 2, float32, network none"
    assert processes == [f"{name}, {problem}: rank {rank}" for name in EVERY for rank in range(2)]


def test_results_of_the_runner_compare(measured: tuple[Outcome, list[SweepStep]]) -> None:
    records = read_records(measured[0].results)
    assert records == measured[0].records
    assert {entry.verdict for entry in compare(records, records)} == {Verdict.SAME, Verdict.NOT_RUN}
    slower = [
        record
        if record.seconds is None
        else record.model_copy(update={"seconds": type(record.seconds).of([9 * s for s in record.seconds.rounds])})
        for record in records
    ]
    worse = {str(entry.after) for entry in compare(records, slower, tolerance=0.0) if entry.verdict.worse}
    apart = {str(r) for r in records if r.seconds is not None and 9 * r.seconds.lower > r.seconds.upper}
    assert worse == apart
    assert apart


def test_a_rank_that_dies_costs_an_attempt_before_any_case_and_its_case_only_afterwards(tmp_path: Path) -> None:
    config = sweep(tmp_path, strategies=["schedule:ring", "schedule:token_ring", "single"], tokens=[31, 48])
    early, late = killing("preparing 31 tokens", rank=0), killing("turn 2 of 4: schedule:token_ring", rank=1)
    steps: list[str] = []

    def on_step(step: SweepStep) -> None:
        steps.append(step.what)
        early(step)
        late(step)

    outcome = run_sweep(config, on_step=on_step)
    assert steps.count("starting ranks") == 3
    failed, *others = outcome.records
    assert (failed.strategy, failed.tokens, failed.status) == ("schedule:token_ring", 31, Status.FAILED)
    assert (failed.error or "").startswith("rank 1 was killed by SIGKILL")
    assert [(r.strategy, r.tokens) for r in others] == [
        ("schedule:ring", 31),
        ("single", 31),
        ("schedule:ring", 48),
        ("schedule:token_ring", 48),
        ("single", 48),
    ]
    assert all(r.status is Status.OK and r.max_error is not None and r.max_error <= 1e-5 for r in others)
    assert others[0].beside == ("schedule:ring", "single")
    assert ranks_here() == []
    with pytest.raises(ConfigurationError, match="--resume"):
        run_sweep(config)
    assert run_sweep(config, resume=True).records == outcome.records  # nothing is left to do


@pytest.mark.matrix
def test_ranks_that_die_before_any_case_again_and_again_fail_them_all(tmp_path: Path) -> None:
    def kill(step: SweepStep) -> None:
        if "preparing 16 tokens" in step.what:
            rank_here(1).kill()

    outcome = run_sweep(sweep(tmp_path, strategies=["schedule:ring"], tokens=[16, 32]), on_step=kill)
    assert [(record.tokens, record.status) for record in outcome.records] == [(16, Status.FAILED), (32, Status.OK)]
    assert "rank 1 was killed by SIGKILL" in (outcome.records[0].error or "")


@pytest.mark.matrix
def test_a_rank_that_is_stopped_costs_its_case_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "2")
    stopped: list[psutil.Process] = []

    def stop(step: SweepStep) -> None:
        if "turn 2 of 4: schedule:ring" in step.what and not stopped:
            stopped.append(rank_here(1))
            stopped[0].suspend()

    outcome = run_sweep(sweep(tmp_path, strategies=["schedule:ring", "single"]), on_step=stop)
    failed, other = outcome.records
    assert (failed.strategy, failed.status, other.status) == ("schedule:ring", Status.FAILED, Status.OK)
    assert (failed.error or "").startswith(f"rank 1 is stopped (process {stopped[0].pid})")
    assert ranks_here() == []


def test_ranks_that_take_too_long_are_ended(tmp_path: Path) -> None:
    outcome = run_sweep(sweep(tmp_path, strategies=["schedule:ring"], timeout=0.001))
    (record,) = outcome.records
    assert record.status is Status.FAILED
    assert "did not answer within 0.001 seconds" in (record.error or "")
    assert ranks_here() == []


@pytest.mark.matrix
def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    folder = tmp_path / "out"
    values = {**BASE, "strategies": ["schedule:ring", "single"], "tokens": [32, 48, 2048], "rounds": 25}
    config.write_text(json.dumps({**values, "output": str(folder)}))
    results = folder / RESULTS_FILE
    with commands.start("bench", str(config)) as process:
        deadline = time.monotonic() + 300
        while not results.exists() or len(results.read_text().splitlines()) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        left = ranks_here(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in err
    assert psutil.wait_procs(left, timeout=60)[1] == []
    kept = results.read_text()
    assert 2 <= len(kept.splitlines()) < 6
    assert (folder / TABLE_FILE).exists()
    assert "schedule:ring" in (folder / REPORT_FILE).read_text()  # what was done until then
    done = commands.run("bench", "run", str(config), "--resume", "--json", "--plots", str(folder / "plots"))
    assert done.returncode == 0, done.stderr
    assert results.read_text().startswith(kept)
    records = json.loads(done.stdout)
    assert [(r["strategy"], r["tokens"]) for r in records] == [
        (name, tokens) for tokens in (32, 48, 2048) for name in ("schedule:ring", "single")
    ]
    assert all(r["status"] == "ok" for r in records)
    assert records[0]["command"] == f"tokenring-xdit bench {config}"
    assert records[-1]["command"] == f"tokenring-xdit bench run {config} --resume --json --plots {folder / 'plots'}"
    assert f"report: {folder / REPORT_FILE}" in done.stderr
    assert len(list((folder / "plots").glob("time--*.svg"))) == 1
    traced = [(entry.strategy, entry.tokens) for entry in read_timelines(folder / TIMELINES_FILE)]
    assert traced == [(r["strategy"], r["tokens"]) for r in records]


def test_a_sweep_with_mistakes_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    config = tmp_path / "sweep.yaml"
    config.write_text(json.dumps({**BASE, "strategies": ["ring"], "output": str(output)}))
    assert main(["bench", str(config)]) == 2
    assert "Did you mean 'schedule:ring'" in capsys.readouterr().err
    assert not output.exists()


def test_a_sweep_with_axes_of_the_other_level_is_refused_without_a_file_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="sizes: belongs to level pipeline"):
        run_sweep(sweep(tmp_path / "out", strategies="single", sizes=64))
    assert not (tmp_path / "out").exists()


def test_more_ranks_than_hosts_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    config = sweep(tmp_path / "out", network="mesh:2:10mbit", strategies="single", cases=[{"ranks": 3}])
    with pytest.raises(ConfigurationError, match="3 ranks do not fit into network 'mesh:2:10mbit'"):
        run_sweep(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_sweep_on_an_emulated_mesh(tmp_path: Path) -> None:
    config = sweep(
        tmp_path, network="mesh:3:100mbit", ranks=[2, 3], tokens=96, strategies=["xfuser-ring", "schedule:token_ring"]
    )
    outcome = run_sweep(config)
    assert len(outcome.records) == 4
    for record in outcome.records:
        assert record.status is Status.OK, record.error
        assert record.max_error is not None and record.max_error <= 1e-5
        assert record.network_share is not None and record.network_share >= 0.9
        assert record.machine["device"] == "cpu"
        assert record.link_bytes is not None and record.bytes_sent is not None
        assert len(record.link_bytes) == record.ranks
        for links, payload in zip(record.link_bytes, record.bytes_sent, strict=True):
            assert len(links) == 2  # each host of the mesh has a link to both others
            assert sum(link["sent"] for link in links.values()) > payload
    assert not [name for name in os.listdir("/run/netns") if name.startswith(f"trx-{os.getpid()}-")]


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_steps_of_a_pipeline_on_an_emulated_mesh(tmp_path: Path) -> None:
    values = {
        "level": "pipeline",
        "network": "mesh:2:100mbit",
        "models": "random-flux:double=1,single=1,heads=4,head_dim=16,text_tokens=16",
        "sizes": 128,
        "steps": 1,
        "strategies": ["xfuser-ring", "schedule:token_ring"],
        "ranks": 2,
        "rounds": 2,
        "output": str(tmp_path),
    }
    outcome = run_sweep(SweepConfig.model_validate(values))
    assert len(outcome.records) == 2
    for record in outcome.records:
        assert record.status is Status.OK, record.error
        assert record.max_error is not None and record.max_error <= 1e-5
        assert record.link_bytes is not None and record.bytes_sent is not None
        for (link,), payload in zip((links.values() for links in record.link_bytes), record.bytes_sent, strict=True):
            assert link["sent"] > payload > 0
