"""``tokenring-xdit serve`` as users start it, on two ranks, spoken to over HTTP."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.serve.client import Client, pixels
from tests.serve.servers import PATIENCE, Served, ranks_of, ready, served, until
from tests.support.commands import run, start
from tests.support.embedded import made_alone
from tokenring_xdit import Engine
from tokenring_xdit.config import read_config
from tokenring_xdit.pipelines.peaks import PeakMeter
from tokenring_xdit.pipelines.run import RunConfig
from tokenring_xdit.serve.foresee import foresee

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package)

from tokenring_xdit.serve.connections import BoundedConnection  # noqa: E402

pytestmark = pytest.mark.e2e

PROMPT = "a red circle left of a blue square"
SEED, STEPS, SIDE = 5, 2, 128
FAR = 20_000  # steps: minutes longer than a test

DRAWING: dict[str, Any] = {"prompt": PROMPT, "size": f"{SIDE}x{SIDE}", "steps": STEPS, "seed": SEED}

KEY = "open sesame"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps what it learns."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """One server for all of these tests."""
    words = ("embedded", "tokenring_degree=2", "--max-waiting", "2", "--max-steps", str(FAR))
    words += ("warm_up=[64,128]", "memory_per_rank=2GiB")
    with served(folder, "embedded", *words, key=KEY, TOKENRING_LIVENESS_LIMIT="3") as found:
        yield found


@pytest.fixture(scope="module")
def process(server: Served) -> subprocess.Popen[str]:
    return server[0]


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return server[1]


@pytest.fixture(scope="module")
def expected(client: Client) -> list[np.ndarray]:
    """The pictures of two seeds as the server draws them first; it has to draw them again, to the last bit."""
    answer = client.draw(**DRAWING, n=2)
    assert answer.status == 200, answer.body
    return [pixels(each["b64_json"]) for each in answer.json["data"]]


def draws(client: Client, expected: list[np.ndarray]) -> bool:
    answer = client.draw(**DRAWING)
    assert answer.status == 200, answer.body
    return np.array_equal(pixels(answer.json["data"][0]["b64_json"]), expected[0])


def under_way(client: Client, name: str, **more: Any) -> Any:
    """Begin a request that takes long; returns its connection once a step was made."""
    connection = client.begin(name, **{**DRAWING, "steps": FAR, **more})
    until(lambda: (client.status(name) or {}).get("step", 0) >= 1)
    return connection


def test_pictures_are_those_of_one_process(expected: list[np.ndarray]) -> None:
    alone = made_alone([(PROMPT, SEED), (PROMPT, SEED + 1)], steps=STEPS, side=SIDE)
    for made, found in zip(alone, expected, strict=True):
        assert np.abs(found.astype(int) - np.asarray(made, dtype=int)).max() <= 1  # rounded to 256 levels
    assert not np.array_equal(*expected)


@pytest.mark.matrix
def test_pictures_are_those_of_an_engine_without_a_server(expected: list[np.ndarray]) -> None:
    with Engine("embedded", tokenring_degree=2) as engine:
        for seed, found in zip((SEED, SEED + 1), expected, strict=True):
            (made,) = engine.generate(PROMPT, width=SIDE, height=SIDE, steps=STEPS, seed=seed, progress=False)
            assert np.array_equal(np.asarray(made), found)


def test_memory_is_learned_from_what_was_made_before_anybody_asked(client: Client) -> None:
    here = PeakMeter(torch.device("cpu"), 1)
    here.begin()
    if here.end() is None:
        pytest.skip("this system does not tell how much memory a process has held")
    done = [job for job in client.ask("GET", "/v1/requests").json["data"] if job["status"] == "done"]
    # of all but the first that was made; a job of two pictures counts twice, and nothing else was asked for
    assert client.figures()["tokenring_forecast_memory_ratio_count"] > len(done)


def test_the_client_of_openai_draws_and_streams(client: Client, expected: list[np.ndarray]) -> None:
    openai = pytest.importorskip("openai")
    theirs = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in theirs.models.list()] == ["embedded"]
    size = f"{SIDE}x{SIDE}"
    drawn = theirs.images.generate(prompt=PROMPT, size=size, extra_body={"steps": STEPS, "seed": SEED})
    assert np.array_equal(pixels(drawn.data[0].b64_json), expected[0])
    assert drawn.size == size
    with pytest.raises(openai.BadRequestError, match="there is no field 'stepz'"):
        theirs.images.generate(prompt=PROMPT, extra_body={"stepz": 1})
    with pytest.raises(openai.AuthenticationError):
        theirs.with_options(api_key="sesame").images.generate(prompt=PROMPT)
    events = list(
        theirs.images.generate(
            prompt=PROMPT, size=size, stream=True, partial_images=2, extra_body={"steps": 6, "seed": SEED}
        )
    )
    kinds = ["image_generation.partial_image", "image_generation.partial_image", "image_generation.completed"]
    assert [event.type for event in events] == kinds
    shown = [pixels(event.b64_json) for event in events]
    assert {picture.shape for picture in shown} == {(SIDE, SIDE, 3)}
    assert not np.array_equal(shown[0], shown[1])
    whole = client.draw(**{**DRAWING, "steps": 6}).json["data"][0]["b64_json"]
    assert np.array_equal(shown[2], pixels(whole))


def test_a_request_is_cancelled_at_its_next_step_and_no_other_is(client: Client, expected: list[np.ndarray]) -> None:
    connection = under_way(client, "cancelled")
    assert client.ask("DELETE", "/v1/requests/cancelled").status == 200
    answer = client.answer(connection)
    assert (answer.status, answer.error["code"]) == (499, "cancelled")
    assert client.status("cancelled")["status"] == "cancelled"
    assert client.ask("DELETE", "/v1/requests/cancelled").json["status"] == "cancelled"  # too late for any other
    assert draws(client, expected)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_not_drawn_for(client: Client, expected: list[np.ndarray], stream: bool) -> None:
    under_way(client, f"gone-{stream}", stream=stream).close()
    until(lambda: client.status(f"gone-{stream}")["status"] == "cancelled")
    assert client.status(f"gone-{stream}")["step"] < FAR
    assert draws(client, expected)


def test_a_full_queue(client: Client, expected: list[np.ndarray]) -> None:
    connections = [under_way(client, "long")]
    for name in ("waits", "waits-too"):
        connections.append(client.begin(name, **DRAWING))
        until(lambda name=name: client.status(name))  # type: ignore[misc]
    full = client.draw(**DRAWING)
    assert full.status == 429
    assert int(full.headers["retry-after"]) >= 1
    assert client.status("waits-too")["seconds_left"] > client.status("long")["seconds_left"]
    client.ask("DELETE", "/v1/requests/long")
    assert [client.answer(each).status for each in connections] == [499, 200, 200]


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.matrix)])
def test_a_rank_that_is_killed_in_the_middle(
    client: Client, process: subprocess.Popen[str], expected: list[np.ndarray], rank: int
) -> None:
    connection = under_way(client, f"killed-{rank}")
    ranks_of(process)[rank].kill()
    answer = client.answer(connection)
    assert (answer.status, answer.error["code"]) == (500, "rank_failed")
    assert f"rank {rank} was killed by SIGKILL" in answer.error["message"]
    assert "/" not in answer.error["message"]
    until(lambda: ready(client))
    assert draws(client, expected)


def test_a_rank_that_is_killed_with_nothing_to_do(
    client: Client, process: subprocess.Popen[str], expected: list[np.ndarray]
) -> None:
    before = ranks_of(process)
    before[1].kill()
    until(lambda: not ready(client))
    assert "1 died while there was nothing to do" in client.ask("GET", "/ready").json["reason"]  # rank 0 may follow it
    refused = client.draw(**DRAWING)
    assert (refused.status, refused.error["code"]) == (503, "restarting")
    until(lambda: ready(client))
    assert draws(client, expected)
    after = ranks_of(process)
    assert {each.pid for each in before.values()}.isdisjoint({each.pid for each in after.values()})


def test_a_rank_that_is_stopped_with_nothing_to_do(
    client: Client, process: subprocess.Popen[str], expected: list[np.ndarray]
) -> None:
    ranks_of(process)[0].send_signal(signal.SIGSTOP)
    until(lambda: not ready(client))
    assert "rank 0 had been stopped for 3 s" in client.ask("GET", "/ready").json["reason"]
    until(lambda: ready(client))
    assert draws(client, expected)


def test_clients_that_say_nothing_keep_nobody_out(client: Client) -> None:
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE))
            for _ in range(BoundedConnection.most + 20)
        ]
        assert ready(client)
        assert silent[0].recv(1) == b""


def test_figures(client: Client) -> None:
    figures = client.figures()
    for rank in range(2):
        assert figures[f'tokenring_sent_bytes_total{{rank="{rank}"}}'] > 0
    assert figures["tokenring_step_exposed_ratio_count"] > 0
    assert 0 < figures["tokenring_step_exposed_ratio_sum"] < figures["tokenring_step_exposed_ratio_count"]
    for stage in ("encode", "denoise", "decode"):
        assert figures[f'tokenring_stage_duration_seconds_count{{stage="{stage}"}}'] > 0
    assert figures['tokenring_stage_duration_seconds_sum{stage="denoise"}'] > 0
    outcomes = {
        name.partition('outcome="')[2].rstrip('"}'): value
        for name, value in figures.items()
        if name.startswith("tokenring_requests_total")
    }
    known = [job["status"] for job in client.ask("GET", "/v1/requests").json["data"]]
    assert {outcome: value for outcome, value in outcomes.items() if outcome != "refused"} == {
        outcome: known.count(outcome) for outcome in outcomes if outcome != "refused"
    }
    assert outcomes["refused"] == 3  # an unknown field, a full queue, ranks that were started again
    restarts = {name: value for name, value in figures.items() if name.startswith("tokenring_world_restarts_total")}
    assert restarts == {
        'tokenring_world_restarts_total{reason="failed"}': known.count("failed"),  # of each rank that was killed
        'tokenring_world_restarts_total{reason="died"}': 1,
        'tokenring_world_restarts_total{reason="stopped"}': 1,
    }


def test_the_end(client: Client, process: subprocess.Popen[str], folder: Path) -> None:
    connection, ranks = under_way(client, "last"), ranks_of(process)
    process.send_signal(signal.SIGTERM)
    answer = client.answer(connection)
    assert (answer.status, answer.error["code"]) == (503, "stopping")
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    log = process.stderr.read()
    assert "Traceback" not in log
    assert log.endswith("ended\n")
    assert not psutil.wait_procs(list(ranks.values()), timeout=PATIENCE)[1]
    said = ["model=embedded", "prompt=a", "tokenring_degree=2", f"size={SIDE}", f"forecasts={folder}"]
    kept = foresee(read_config(RunConfig, None, said))
    assert kept is not None and kept.seconds is not None and kept.seconds > 0


def test_the_end_while_ranks_load_waits_for_nothing() -> None:
    with start("serve", "embedded", "tokenring_degree=2", "forecasts=none", "--port", "0", "--grace", "600") as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline().startswith("serving embedded on ")
            until(lambda: len(ranks_of(process)) == 2)
            ranks = ranks_of(process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert process.stderr.read() == "ended\n"
            assert not psutil.wait_procs(list(ranks.values()), timeout=PATIENCE)[1]
        finally:
            process.kill()


def test_what_cannot_be_served_is_one_sentence() -> None:
    done = run("serve", "no-such-model", "--port", "0")
    assert done.returncode == 2
    assert "there is no model folder 'no-such-model'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_one_sentence() -> None:

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", "embedded", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "the server cannot listen on 127.0.0.1" in done.stderr
