from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.bench import RESULTS_FILE, Record, Status, Verdict, compare, read_records
from tokenring_xdit.bench.records import Spread
from tokenring_xdit.cli import main
from tokenring_xdit.errors import ConfigurationError

durations = st.lists(st.floats(1e-3, 10), min_size=1, max_size=9)


def record(seconds: list[float] | None, strategy: str = "ulysses", status: Status = Status.OK, **more: Any) -> Record:
    shape = {"ranks": 2, "tokens": 64, "heads": 2, "head_dim": 8, "batch": 1, "dtype": "float32"}
    spread = None if seconds is None else Spread.of(seconds)
    values = {**shape, "network": "none", "rounds": 3, "seed": 0, "seconds": spread, **more}
    return Record(strategy=strategy, status=status, **values)


def verdict(before: Record, after: Record) -> Verdict:
    (difference,) = compare([before], [after])
    return difference.verdict


def write(path: Path, *records: Record) -> str:
    path.write_text("".join(entry.model_dump_json() + "\n" for entry in records))
    return str(path)


@given(durations)
def test_quartiles_surround_the_median_and_a_run_is_itself(seconds: list[float]) -> None:
    spread = Spread.of(seconds)
    assert min(seconds) <= spread.lower <= spread.median <= spread.upper <= max(seconds)
    assert spread.rounds == tuple(seconds)
    assert verdict(record(seconds), record(seconds)) is Verdict.SAME


@given(durations, st.floats(1.0, 3.0))
def test_slower_one_way_is_faster_the_other(seconds: list[float], factor: float) -> None:
    before, after = record(seconds), record([factor * s for s in seconds])
    there, back = verdict(before, after), verdict(after, before)
    assert (there, back) in {(Verdict.SAME, Verdict.SAME), (Verdict.SLOWER, Verdict.FASTER)}
    if factor > 1.06 and max(seconds) * 1.06 < factor * min(seconds):
        assert there is Verdict.SLOWER


def test_a_change_within_the_spread_is_noise() -> None:
    assert verdict(record([1.0, 1.2, 2.0]), record([1.0, 1.5, 2.1])) is Verdict.SAME
    assert verdict(record([1.0, 1.001, 1.002]), record([1.02, 1.03, 1.04])) is Verdict.SAME  # below the tolerance
    assert verdict(record([1.0, 1.1, 1.2]), record([1.5, 1.6, 1.7])) is Verdict.SLOWER


def test_cases_that_stopped_working_are_worse() -> None:
    failed = record(None, status=Status.FAILED, error="rank 1 was ended by signal 9")
    assert verdict(record([1.0]), failed) is Verdict.BROKEN
    assert verdict(failed, record([1.0])) is Verdict.FIXED
    assert verdict(failed, failed) is Verdict.NOT_RUN
    found = {entry.verdict for entry in compare([record([1.0])], [record([1.0], "single")])}
    assert found == {Verdict.ONLY_BEFORE, Verdict.ONLY_AFTER}


def test_the_command_fails_where_something_became_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "a.jsonl", record([1.0, 1.1, 1.2]), record([1.0, 1.1, 1.2], "single"))
    after = write(tmp_path / "b.jsonl", record([2.0, 2.1, 2.2]), record([1.0, 1.1, 1.2], "single"))
    assert main(["bench", "diff", before, after]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].startswith("slower       ulysses, 64 tokens")
    assert "1100.0 (1050.0 to 1150.0) -> 2100.0 (2050.0 to 2150.0) ms, x1.91" in captured.out
    assert "1 of 2 cases became slower" in captured.err
    assert main(["bench", "diff", after, before, "--json"]) == 0
    assert [entry["verdict"] for entry in json.loads(capsys.readouterr().out)] == ["faster", "within noise"]
    assert main(["bench", "diff", before, after, "--tolerance", "1.0"]) == 0


def test_files_that_cannot_be_compared_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "a.jsonl", record([1.0]))
    other = write(tmp_path / "b.jsonl", record([1.0], "single"))
    (tmp_path / "c.jsonl").write_text('{"strategy": 3}\n')
    for arguments, message in (
        ([one, other], "have no case in common"),
        ([one, str(tmp_path / "c.jsonl")], "line 1: strategy"),
        ([one, str(tmp_path / "none.jsonl")], "cannot be read"),
        ([one, one, "--tolerance", "-1"], "has to be 0 or more"),
    ):
        assert main(["bench", "diff", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_line_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    whole = record([1.0]).model_dump_json()
    path.write_text(f"{whole}\n{whole[:40]}")
    with pytest.raises(ConfigurationError, match="line 2"):
        read_records(path)


def test_runs_of_different_machines_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "a.jsonl", record([1.0], machine={"cores": 2, "torch": "2.13.0", "tokenring-xdit": "0.1"}))
    other = write(tmp_path / "b.jsonl", record([1.0], machine={"cores": 4, "torch": "2.13.0", "tokenring-xdit": "0.2"}))
    assert main(["bench", "diff", one, other]) == 0
    assert capsys.readouterr().err == "note: the runs differ in more than the code: cores 2 and 4\n"
    assert main(["bench", "diff", one, one]) == 0
    assert capsys.readouterr().err == ""


def finished_sweep(folder: Path, *records: Record) -> str:
    """A sweep whose cases have all been recorded, so that ``--resume`` has nothing left to measure."""
    (folder / "out").mkdir()
    write(folder / "out" / RESULTS_FILE, *records)
    strategies = ", ".join(entry.strategy for entry in records)
    path = folder / "sweep.yaml"
    path.write_text(
        f"strategies: [{strategies}]\nranks: 2\ntokens: 64\nheads: 2\nhead_dim: 8\noutput: {folder / 'out'}\n"
    )
    return str(path)


def test_a_sweep_compares_with_its_baseline_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = finished_sweep(tmp_path, record([2.0, 2.1, 2.2]), record([1.0, 1.1, 1.2], "single"))
    fast = write(tmp_path / "fast.jsonl", record([1.0, 1.1, 1.2]), record([1.0, 1.1, 1.2], "single"))
    slow = write(tmp_path / "slow.jsonl", record([3.0, 3.1, 3.2]))
    assert main(["bench", sweep, "--resume", "--baseline", fast]) == 1
    captured = capsys.readouterr()
    assert "slower       ulysses, 64 tokens" in captured.out
    assert "1 of 2 cases became slower" in captured.err
    assert main(["bench", sweep, "--resume", "--baseline", fast, "--tolerance", "1"]) == 0
    capsys.readouterr()
    assert main(["bench", "run", sweep, "--resume", "--baseline", slow, "--json"]) == 0
    captured = capsys.readouterr()
    assert [entry["strategy"] for entry in json.loads(captured.out)] == ["ulysses", "single"]
    assert "faster       ulysses" in captured.err
    assert "only after   single" in captured.err


def test_failures_are_told_before_what_became_slower(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = finished_sweep(tmp_path, record(None, status=Status.FAILED, error="rank 1 was ended by signal 9"))
    assert main(["bench", sweep, "--resume", "--baseline", write(tmp_path / "a.jsonl", record([1.0]))]) == 1
    captured = capsys.readouterr()
    assert "broken       ulysses" in captured.out
    assert "1 of 1 cases failed" in captured.err


def test_a_baseline_that_is_of_no_use_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = finished_sweep(tmp_path, record([1.0]))
    other = write(tmp_path / "other.jsonl", record([1.0], "single"))
    output = f"output={tmp_path / 'new'}"
    for arguments, message in (
        (["--baseline", other], "has no case of"),
        (["--baseline", str(tmp_path / "none.jsonl")], "cannot be read"),
        (["--baseline", other, "--tolerance", "-1"], "has to be 0 or more"),
    ):
        assert main(["bench", sweep, output, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_steps_of_pipelines_are_cases_of_their_own() -> None:
    step = record([2.0], level="pipeline", model="embedded", size="64x64", steps=2)
    keys = {record([1.0]).key, step.key}
    for change in ({"model": "other"}, {"size": "64x32"}, {"steps": 3}):
        keys.add(step.model_copy(update=change).key)
    assert len(keys) == 5
    assert str(step).startswith("ulysses, embedded, 64x64 pixels, 2 steps, 64 tokens")


def test_results_of_anybody_do_not_reach_the_terminal_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = record([1.0], strategy="ulysses\x1b[31m\n  better       made up")
    file = write(tmp_path / RESULTS_FILE, hostile)
    assert main(["bench", "diff", file, file]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 1
    assert printed.rstrip("\n").isprintable()
    Path(file).write_text(json.dumps({"\x1b[31m\n": 1}) + "\n")
    assert main(["bench", "diff", file, file]) == 2
    assert all(character.isprintable() or character == "\n" for character in capsys.readouterr().err)
