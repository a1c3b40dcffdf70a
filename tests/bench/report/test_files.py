"""``bench report``, what ``bench run`` leaves, and the plots as files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.bench.report import samples
from tests.bench.report.samples import record
from tokenring_xdit.bench import Status
from tokenring_xdit.bench.report import write_plots
from tokenring_xdit.cli import main

SMALL = {"ranks": 2, "tokens": [16, 32], "heads": 2, "head_dim": 8, "rounds": 2, "strategies": ["schedule:token_ring"]}


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """An environment in which a package is not installed."""
    real, module = importlib.util.find_spec, {"vl-convert-python": "vl_convert"}.get(package, package)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else real(name, *more))


@pytest.mark.e2e
def test_the_plots_are_written_as_png_and_svg(tmp_path: Path) -> None:
    timelines = {"schedule:token_ring": samples.timeline("token_ring")}
    results = samples.write(tmp_path, samples.sweep((1024, 2048), (2,)), timelines)
    written = write_plots(results, tmp_path / "plots")
    assert sorted(written) == sorted((tmp_path / "plots").iterdir())
    assert {path.name.partition("--")[0] for path in written} == {
        *("time", "speed-up", "communication", "busiest-link", "bytes-sent", "memory", "links", "timeline")
    }
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.width > 600 and len(set(picture.convert("L").resize((64, 64)).tobytes())) > 5
        else:
            text = "".join(ElementTree.parse(path).getroot().itertext())
            assert "token_ring" in text or "rank 0" in text


def test_bars_and_names_with_formulas_in_them(tmp_path: Path) -> None:
    records = [record([1.0, 1.1, 1.3], name) for name in ("schedule:ring", "$\\frac{", "single")]
    early = records[0].exposed_seconds
    assert early is not None
    records[0] = records[0].model_copy(update={"exposed_seconds": early.model_copy(update={"median": -0.01})})
    written = write_plots(samples.write(tmp_path, records), tmp_path / "plots")
    drawn = next(path for path in written if path.name.startswith("time--") and path.suffix == ".svg")
    assert "$\\frac{" in drawn.read_text()


def test_a_report_of_a_folder_and_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = samples.write(
        tmp_path / "sweep", [record([1.0, 2.0]), record(None, "ulysses", Status.REFUSED, error="no")]
    )
    assert main(["bench", "report", str(tmp_path / "sweep")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'sweep' / 'report.html'}\n"
    elsewhere, plots = tmp_path / "new" / "mine.html", tmp_path / "plots"
    assert main(["bench", "report", str(results), "--output", str(elsewhere), "--plots", str(plots)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"report: {elsewhere}", f"plots: 8 files in {plots}"]
    assert elsewhere.read_text().startswith("<!DOCTYPE html>")
    assert elsewhere.read_text() == (tmp_path / "sweep" / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no results.jsonl: name the folder that a sweep wrote to"),
        ("", "has no case yet: nothing can be reported"),
        ('{"strategy": 3}\n', "line 1: strategy"),
    ],
)
def test_folders_without_results_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    assert main(["bench", "report", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_place_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "report", str(tmp_path / "nowhere")]) == 2
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["altair", "jinja2", "vl-convert-python"])
def test_missing_packages_are_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    samples.write(tmp_path, [record([1.0])])
    without(monkeypatch, package)
    assert main(["bench", "report", str(tmp_path), "--plots", str(tmp_path / "plots")]) == 2
    assert f'without {package}: pip install "tokenring-xdit[bench]"' in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    config = tmp_path / "sweep.yaml"
    config.write_text(json.dumps({**SMALL, "output": str(tmp_path / "out")}))
    if package != "jinja2":
        assert main(["bench", str(config), "--plots", str(tmp_path / "plots")]) == 2
        assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_sweep_that_is_over_leaves_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, report = tmp_path / "sweep.yaml", tmp_path / "report.html"
    config.write_text(json.dumps({**SMALL, "output": str(tmp_path)}))
    samples.write(
        tmp_path, [record([1.0], ranks=2, tokens=tokens, heads=2, head_dim=8, rounds=2) for tokens in (16, 32)]
    )
    assert main(["bench", str(config), "--resume", "--plots", str(tmp_path / "plots")]) == 0
    assert f"report: {report}" in capsys.readouterr().err
    assert report.exists() and list((tmp_path / "plots").glob("time--*.svg"))
    report.unlink()
    without(monkeypatch, "altair")
    assert main(["bench", str(config), "--resume"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        'the report was left out: the report cannot be made without altair: pip install "tokenring-xdit[bench]"'
    )
    assert not report.exists()
