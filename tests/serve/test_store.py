"""What servers keep over restarts, and what configs are told from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.serve.made_up import GIB
from tokenring_xdit.cli import main
from tokenring_xdit.config import read_config
from tokenring_xdit.pipelines.messages import MemoryUse
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.serve.config import ServeConfig
from tokenring_xdit.serve.forecast import Forecast
from tokenring_xdit.serve.foresee import Learned
from tokenring_xdit.serve.jobs import InputPictures
from tokenring_xdit.serve.memory import MemoryForecast
from tokenring_xdit.serve.store import ForecastStore, key_of

KEY = {"model": "embedded", "tokenring": 2}
EDITS = InputPictures(1, 20)


def learned() -> tuple[Forecast, MemoryForecast]:
    forecast, memory = Forecast(), MemoryForecast()
    for side in (64, 128, 256):
        forecast.learn(side**2, side / 64, 0.5)
        memory.learn(side**2, [MemoryUse(GIB, 2 * GIB + side**2, 16 * GIB)])
    forecast.learn(64**2, 9.0, 9.0, EDITS)
    return forecast, memory


def recalled(store: ForecastStore) -> tuple[bool, Forecast, MemoryForecast]:
    forecast, memory = Forecast(), MemoryForecast()
    return store.recall(forecast, memory), forecast, memory


def test_what_was_learned_is_known_after_a_restart(tmp_path: Path) -> None:
    forecast, memory = learned()
    store = ForecastStore(tmp_path / "new", KEY)
    assert not recalled(store)[0]
    store.keep(forecast, memory)
    found, again, needs = recalled(ForecastStore(tmp_path / "new", KEY))
    assert found
    for pixels in (32**2, 64**2, 200**2, 512**2):
        assert again.seconds(pixels, 4) == forecast.seconds(pixels, 4)
        assert needs.peak(pixels) == memory.peak(pixels)
    assert again.seconds(64**2, 4, EDITS) == 45.0
    assert forecast.longest_silence(64**2) == 1.5
    assert again.longest_silence(64**2) is None  # whose ranks have everything to make once
    assert needs.free() is None and not needs.too_much(10_000**2)
    again.learn(64**2, 1.0, 0.5)
    assert again.longest_silence(64**2) == 1.5


def test_nothing_is_written_that_is_known(tmp_path: Path) -> None:
    forecast, memory = learned()
    store = ForecastStore(tmp_path, KEY)
    store.keep(Forecast(), MemoryForecast())
    assert list(tmp_path.iterdir()) == []
    store.keep(forecast, memory)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_ino
    store.keep(forecast, memory)
    assert file.stat().st_ino == before
    forecast.learn(64**2, 1.0, 0.5)
    store.keep(forecast, memory)
    assert file.stat().st_ino != before  # another file took its place, whole
    ForecastStore(None, KEY).keep(forecast, memory)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"version":1', '"version":2'),
        lambda text: text.replace('"size":4096', '"size":-4096'),
        lambda text: text.replace("9.0", "NaN"),
        lambda text: text.replace("9.0", '"9.0"'),
        lambda text: "[]",
        lambda text: "\udcff",
    ],
)
def test_what_is_damaged_or_of_another_version_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    store = ForecastStore(tmp_path, KEY)
    store.keep(*learned())
    (file,) = tmp_path.iterdir()
    text = damage(file.read_text())
    file.write_bytes(text.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        found, forecast, _ = recalled(store)
    assert not found and forecast.requests == 0
    assert str(file) in caplog.text
    ForecastStore(tmp_path, KEY).keep(*learned())
    assert recalled(store)[0]


def test_where_nothing_can_be_written_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    store = ForecastStore(tmp_path / "file", KEY)
    with caplog.at_level(logging.WARNING):
        store.keep(*learned())
        store.keep(*learned())
    assert caplog.text.count("forecasts are not kept over restarts") == 1


def test_other_degrees_schedules_and_types_have_files_of_their_own(tmp_path: Path) -> None:
    values = [
        [],
        ["tokenring_degree=2"],
        ["tokenring_degree=2", "schedule=direct"],
        ["ulysses_degree=2"],
        ["dtype=bfloat16"],
        ["task=inpainting"],
    ]
    configs = [read_config(RunConfig, None, ["model=embedded", "prompt=a", *each]) for each in values]
    keys = [key_of(config) for config in configs] + [key_of(configs[0], "ray")]
    assert len({ForecastStore(tmp_path, key).path for key in keys}) == len(keys)


def test_a_run_and_a_check_are_told_what_servers_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["model=embedded", f"forecasts={tmp_path}", "steps=4"]
    server = Learned(read_config(ServeConfig, None, said))
    for side in (64, 96, 128):
        server.forecast.learn(side**2, side / 64, 0.5)
        server.memory.learn(side**2, [MemoryUse(GIB, 2 * GIB, 16 * GIB)])
    server.keep()
    output = f"output={tmp_path / 'a.png'}"
    assert main(["run", "--dry-run", *said, output, "prompt=[a circle, a square]", "size=96"]) == 0
    shown = capsys.readouterr().out
    assert "ranks: 1\n" in shown and "size: 96x96\n" in shown and "prompts: 2\n" in shown
    assert "forecast: about 13 s and 2.00 GiB of a rank's memory, as 3 requests to 'serve' took\n" in shown
    assert main(["run", "--dry-run", "--json", *said, output, "prompt=a", "size=128", "tokenring_degree=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ranks"], found["schedule"], found["forecast"]) == (2, "token_ring", None)
    assert not (tmp_path / "a.png").exists()
    assert main(["run", "--dry-run", *said, f"output={tmp_path}/new/deep/a.png", "prompt=a"]) == 0
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    capsys.readouterr()
    assert main(["run", "--dry-run", *said, f"output={tmp_path}/file/a.png", "prompt=a"]) == 2
    assert "file/a.png cannot be written" in capsys.readouterr().err
    config = tmp_path / "run.yaml"
    config.write_text(f"model: embedded\nprompt: a\nsize: 64\nsteps: 4\nforecasts: {tmp_path}\n")
    assert main(["config", "check", str(config)]) == 0
    assert capsys.readouterr().out == (
        f"{config}: fine; takes about 4.5 s and 2.00 GiB of a rank's memory, as 3 requests to 'serve' took\n"
    )
    assert main(["config", "check", str(config), "--json"]) == 0
    (verdict,) = json.loads(capsys.readouterr().out)
    assert verdict["forecast"] == {"seconds": 4.5, "peak_bytes": 2 * GIB, "requests": 3}
    assert main(["run", "--dry-run", *said, output, "prompt=a", "size=7"]) == 2  # all mistakes are found


def test_servers_that_learn_at_once_lose_nothing(tmp_path: Path) -> None:
    for side, seconds in ((64, 1.0), (128, 3.0)):
        forecast = Forecast()
        forecast.learn(side**2, seconds, 0.5)
        ForecastStore(tmp_path, KEY).keep(forecast, MemoryForecast())  # neither has read what the other wrote
    _, again, _ = recalled(ForecastStore(tmp_path, KEY))
    assert [again.step_seconds(side**2) for side in (64, 128)] == [1.0, 3.0]


def test_what_cannot_be_kept_ends_no_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ForecastStore(tmp_path, {**KEY, "model": "a\udcff"})
    store.keep(*learned())
    store.keep(*learned())
    assert [record.getMessage().startswith("forecasts are not kept") for record in caplog.records] == [True]


def test_a_folder_with_a_name_that_is_too_long_holds_nothing(tmp_path: Path) -> None:
    assert not ForecastStore(tmp_path / ("a" * 300), KEY).exists


def test_new_ranks_have_everything_to_make_once() -> None:
    forecast, _ = learned()
    forecast.cool()
    assert forecast.longest_silence(64**2) is None
    assert forecast.step_seconds(64**2) == 1.0
