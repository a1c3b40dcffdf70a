"""The file of timelines: what is written is read, what is broken is refused, what runs again is dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import chrome_trace
from tokenring_xdit.bench import TIMELINES_FILE, TRACE_FILE, Record, Status, read_timelines
from tokenring_xdit.bench.timelines import Traced, add_timeline, keep_recorded
from tokenring_xdit.cli import main
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.schedule import Activity, Span, Timeline

TIMELINE = Timeline(
    "schedule:ring",
    2,
    (
        Span(0, Activity.ATTEND, 0.0, 0.1 + 0.2, "Q[0] to KV[0]"),
        Span(0, Activity.WAIT, 0.1 + 0.2, 0.5, "KV[1]"),
        Span(0, Activity.SEND, 0.0, 0.2, "KV[0]", "kv", 1, 64),
        Span(1, Activity.RECEIVE, 0.0, 0.25, "KV[0]", "kv", 0, 64),
    ),
)


def record(strategy: str = "schedule:ring", tokens: int = 64) -> Record:
    return Record(
        strategy=strategy,
        ranks=2,
        tokens=tokens,
        heads=4,
        head_dim=8,
        batch=1,
        dtype="float32",
        network="none",
        rounds=3,
        seed=0,
        status=Status.OK,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / TIMELINES_FILE
    for tokens in (64, 128):
        add_timeline(path, record(tokens=tokens), Traced(TIMELINE, 2e-5))
    return path


def test_what_is_written_is_read(file: Path) -> None:
    found = read_timelines(file)
    assert [entry.tokens for entry in found] == [64, 128]
    assert all(entry.timeline == TIMELINE and entry.clock_error == 2e-5 for entry in found)
    content = json.loads(file.read_text().splitlines()[0])
    assert content.pop("timeline") == json.loads(json.dumps(TIMELINE.to_dict()))
    assert content == {
        "strategy": "schedule:ring",
        "ranks": 2,
        "tokens": 64,
        "queries": None,
        "heads": 4,
        "head_dim": 8,
        "batch": 1,
        "dtype": "float32",
        "network": "none",
        "level": "attention",
        "model": None,
        "size": None,
        "steps": None,
        "clock_error": 2e-5,
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 3: the line: Invalid JSON"),
        ('{"strategy": "ring"}', "line 3: ranks: Field required"),
        ("activity", "line 3: timeline.spans.0.activity: Input should be 'send'"),
        ("end", "line 3: timeline.spans.1.end: Field required"),
    ],
)
def test_what_is_no_timeline_is_refused(file: Path, line: str, said: str) -> None:
    broken = json.loads(file.read_text().splitlines()[0])
    if line == "activity":
        broken["timeline"]["spans"][0]["activity"] = "sleep"
        line = json.dumps(broken)
    elif line == "end":
        del broken["timeline"]["spans"][1]["end"]
        line = json.dumps(broken)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ConfigurationError) as refused:
        read_timelines(file)
    assert said in str(refused.value)
    assert str(refused.value).endswith("is it the timelines.jsonl of a sweep?")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_timelines(tmp_path / TIMELINES_FILE)


def test_cases_that_run_again_lose_their_timeline(file: Path) -> None:
    before = file.read_text()
    keep_recorded(file, [record(tokens=64), record(tokens=128), record("ulysses")])
    assert file.read_text() == before
    keep_recorded(file, [record(tokens=128), record("ulysses", 64)])
    assert [entry.tokens for entry in read_timelines(file)] == [128]
    keep_recorded(file, [])
    assert file.read_text() == ""


def test_a_line_that_was_cut_off_is_dropped(file: Path) -> None:
    whole = file.read_text()
    file.write_text(whole + whole[:200])
    keep_recorded(file, [record(tokens=64), record(tokens=128)])
    assert file.read_text() == whole


def test_a_trace_has_every_rank_of_every_case(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "trace", str(file.parent)]) == 0
    assert str(file.parent / TRACE_FILE) in capsys.readouterr().out
    content = json.loads((file.parent / TRACE_FILE).read_text())
    chrome_trace.refuse(content)
    names = [event["args"]["name"] for event in content["traceEvents"] if event["name"] == "process_name"]
    assert names == [
        f"schedule:ring, {tokens} tokens, 4 heads of 8, batch 1, float32, network none: rank {rank}"
        for tokens in (64, 128)
        for rank in range(2)
    ]
    spans = [event for event in content["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in spans] == 2 * [
        "attend Q[0] to KV[0]",
        "wait KV[1]",
        "send KV[0]",
        "receive KV[0]",
    ]
    assert spans[2]["args"] == {"channel": "kv", "peer": 1, "bytes": 64}
    assert (spans[3]["ts"], spans[3]["dur"]) == (0, 0.25e6)


def test_a_trace_goes_where_it_is_told(file: Path) -> None:
    elsewhere = file.parent / "new" / "t.json"
    assert main(["bench", "trace", str(file.parent), "--output", str(elsewhere)]) == 0
    chrome_trace.refuse(json.loads(elsewhere.read_text()))
    assert not (file.parent / TRACE_FILE).exists()


def test_a_folder_without_timelines_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "trace", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / TIMELINES_FILE).touch()
    assert main(["bench", "trace", str(tmp_path)]) == 2
    assert "no case of the sweep has a timeline" in capsys.readouterr().err
