from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tokenring_xdit.cli import main

SMALL = ["--topology", "mesh:4:100mbit", "--tokens", "256", "--heads", "4", "--head-dim", "16", "--tflops", "0.1"]


def test_the_best_comes_first_with_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best, options = found["best"], found["options"]
    assert main(["plan", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-2:] == [f"* {best['why']}", f"best: {best['flags'] or 'one rank'}"]
    assert (best["name"], best["flags"], best["why"]) == tuple(options[0][key] for key in ("name", "flags", "why"))
    assert found["tie"] == 0.02
    assert sum(line.startswith("* ") for line in printed.splitlines()) == 2  # its row, and why
    assert "one rank" in {option["name"] for option in options}
    assert sum(line.lstrip("* ").startswith("one rank ") for line in printed.splitlines()) == 1
    assert "Predicted, not measured." in printed


def test_a_model_on_a_machine_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", "flux", "--topology", "4xa10", "--tflops", "60"]) == 0
    assert "4608 tokens, 24 heads of 128, batch 1, 4 ranks, over 4xa10" in capsys.readouterr().out


def test_a_simulation_and_its_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.json"
    assert main(["simulate", "direct:chunks=2", *SMALL, "--cuda-graphs", "--json", "--trace", str(trace)]) == 0
    found = json.loads(capsys.readouterr().out)
    ends = [span["end"] for span in found["timeline"]["spans"] if span["activity"] not in {"send", "receive"}]
    assert found["seconds"] == max(ends)
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert len(events) == len(found["timeline"]["spans"])
    assert main(["simulate", "token_ring", *SMALL]) == 0
    assert "rank 3: attend" in capsys.readouterr().out


def test_where_launching_decides_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    fast = ["--topology", "mesh:4:10tbit", *SMALL[2:], "--tflops", "400"]
    assert main(["simulate", "token_ring", *fast, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] == found["launch_seconds"]
    assert main(["simulate", "token_ring", *fast, "--cuda-graphs", "--json"]) == 0
    captured = json.loads(capsys.readouterr().out)
    assert captured["seconds"] < found["seconds"]
    assert captured["launch_seconds"] == 0
    assert main(["plan", *fast]) == 0
    assert "take as long as the host needs to launch them; --cuda-graphs" in capsys.readouterr().out
    assert main(["plan", *fast, "--cuda-graphs"]) == 0
    printed = capsys.readouterr().out
    assert "calls captured as CUDA graphs" in printed
    assert "to launch them" not in printed


def test_fewer_queries_than_keys_are_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SMALL, "--queries", "64"]) == 0
    assert "64 queries, 256 keys" in capsys.readouterr().out


def test_graphs_of_a_machine_without_gpus_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SMALL[:-2], "--dtype", "float32", "--cuda-graphs"]) == 2
    assert "this machine has none: pass --tflops" in capsys.readouterr().err


def test_the_kernel_is_measured_where_its_speed_is_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SMALL[:-2], "--dtype", "float32"]) == 0
    assert "measured on this machine's" in capsys.readouterr().out


def test_what_was_probed_on_processors_is_planned_on_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "probed.yaml"
    links = "[{between: [h0, switch], rate: 95mbit}, {between: [h1, switch], rate: 95mbit}]"
    lines = ["hosts: 2", "switches: [switch]", "hosts-forward: false", "counts: payload", f"links: {links}"]
    path.write_text("\n".join([*lines, "measured: {devices: [cpu, cpu], network: null}"]))
    call = ["--topology", str(path), "--tokens", "256", "--heads", "4", "--head-dim", "16", "--dtype", "float32"]
    assert main(["plan", *call]) == 0
    assert "measured on this machine's" in capsys.readouterr().out
    if torch.cuda.is_available():
        return
    path.write_text("\n".join([*lines, "measured: {devices: [NVIDIA H100, NVIDIA H100]}"]))
    assert main(["plan", *call]) == 2
    assert "is of GPUs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "hgx-h300"], "hgx-h300"),
        (["--topology", "mesh:4:1gbit", "--ranks", "5", "--model", "flux"], "--ranks 5 does not fit"),
        (["--topology", "mesh:4:1gbit"], "say --model, or --tokens, --heads, --head-dim"),
        (["--topology", "mesh:4:1gbit", "--tokens", "64"], "--heads, --head-dim as well"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--heads", "3"], "says what --heads would say"),
        (["--topology", "mesh:4:1gbit", "--model", "llama-3.1-9b", "--tokens", "9"], "Did you mean 'llama-3.1-8b'"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--size", "big"], "size 'big' is neither"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--size", "9" * 5000], "is neither a number of pixels"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--size", "1280x721"], "the height has to be a multiple"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--size", "1281x720"], "the width has to be a multiple"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--tflops", "0"], "--tflops 0"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--queries", "0"], "--queries 0 has to be 1 or more"),
        (["--topology", "mesh:4:1gbit", "--tokens", "0", "--heads", "-1", "--head-dim", "8"], "--tokens 0, --heads -1"),
        ([*SMALL, "--size", "1024", "--frames", "1"], "--size, --frames says nothing without --model"),
        (["--topology", "mesh:4:1gbit", "--model", "wan-14b", "--frames", "0"], "frames 0: has to be 1 or more"),
        (["--topology", "mesh:4:1gbit", "--model", "flux", "--frames", "5"], "this model makes pictures"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


LLAMA = ["--model", "llama-3.1-8b", "--topology", "hgx-h100", "--ranks", "8"]


def test_phases_of_a_language_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LLAMA, "--tokens", "1m", "--cached", "900k", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    prompt, turn, step = found["phases"]
    assert [phase["phase"] for phase in found["phases"]] == ["whole prompt", "next turn", "step of an answer"]
    assert (prompt["past"], prompt["new"]) == (0, 1 << 20)
    assert (turn["past"], turn["new"]) == (900 << 10, 124 << 10)
    assert (step["past"], step["new"]) == (1 << 20, 1)
    assert (found["layers"], turn["heads"], turn["kv_heads"], turn["head_dim"]) == (32, 32, 8, 128)
    assert turn["strategies"][0]["name"] == "queries"
    assert 0.15 < turn["crossing"] / (1 << 20) < 0.3
    assert [one["name"] for one in step["strategies"]] == ["outputs", "gather-kv"]
    assert main(["plan", *LLAMA, "--tokens", "1m", "--cached", "900k"]) == 0
    printed = capsys.readouterr().out
    assert "kernel 600 TFLOP/s" in printed
    assert "next turn: 126976 tokens behind 921600 cached" in printed
    assert "keys are the better thing to send from" in printed
    assert sum(line.startswith("* ") for line in printed.splitlines()) == 2 * 3  # a row and a reason each
    assert main(["plan", *LLAMA[:-1], "1", "--tokens", "2k"]) == 0
    assert capsys.readouterr().out.count("* one rank has all keys, and sends nothing") == 2


def test_layers_with_windows_send_a_halo(capsys: pytest.CaptureFixture[str]) -> None:
    gemma = ["plan", "--model", "gemma-2-9b", "--topology", "hgx-h100", "--ranks", "4", "--tokens", "64k"]
    assert main([*gemma, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["phases"]
    assert [(one["phase"], one["window"], one["layers"]) for one in found] == [
        ("whole prompt", None, 21),
        ("whole prompt", 4096, 21),
        ("step of an answer", None, 21),
        ("step of an answer", 4096, 21),
    ]
    sent = [one["strategies"][0]["sent"] for one in found[:2]]
    assert sent[1] == 4095 * 2 * 8 * 256 * 2 < sent[0]
    assert main(gemma) == 0
    printed = capsys.readouterr().out
    assert "whole prompt: 65536 tokens, 21 of 42 layers with a window of 4096" in printed
    assert main([*gemma[:-1], "2k"]) == 0  # of which every query sees all before it
    assert "window" not in capsys.readouterr().out


@pytest.mark.parametrize("ranks", [128, pytest.param(1024, marks=pytest.mark.matrix)])
def test_many_ranks_are_planned_by_sums(ranks: int, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "llama-3.1-8b", "--tokens", "1m", "--cached", "900k", "--tflops", "600"]
    assert main(["plan", *model, "--topology", f"hgx-h100*{ranks // 8}@ib-ndr"]) == 0
    printed = capsys.readouterr().out
    assert "times are what the busiest rank or link takes at least" in printed
    assert {"near_far", "keys", "queries", "outputs"} <= set(printed.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*LLAMA], "is a language model: say --tokens"),
        ([*LLAMA, "--tokens", "1k", "--cached", "1k"], "more than --cached 1024"),
        ([*LLAMA, "--tokens", "1k", "--heads", "3"], "--heads says nothing of a language model"),
        ([*LLAMA, "--tokens", "1k", "--size", "1024"], "--size says nothing of a language model"),
        (["--model", "flux", "--topology", "mesh:4:1gbit", "--cached", "1k"], "--cached is about language models"),
    ],
)
def test_what_cannot_be_planned_of_language_models_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err
