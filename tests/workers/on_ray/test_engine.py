"""An engine whose ranks are on two Ray nodes: exact, and still there after its ranks and nodes were lost."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from tests.support.embedded import made_alone
from tests.workers.on_ray.nodes import TwoNodes, two_nodes
from tokenring_xdit import Engine, Step
from tokenring_xdit.errors import ConfigurationError, EngineError
from tokenring_xdit.liveness import LIMIT_VARIABLE

pytestmark = pytest.mark.e2e

PROMPT, SEED, STEPS = "a red circle left of a blue square", 5, 4
FAR = 100_000  # steps: longer than any of these tests

ENGINE: dict[str, Any] = {"tokenring_degree": 2, "attention_backend": "sdpa_flash"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    """Two nodes of a core each: the ranks cannot be on one."""
    with two_nodes(1) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def engine(nodes: TwoNodes) -> Iterator[Engine]:
    """One engine for all, which serves on after whatever was done to its ranks."""
    with Engine("embedded", ray=nodes.address, **ENGINE) as engine:
        yield engine


@pytest.fixture(scope="module")
def local() -> Image.Image:
    """The picture of an engine on this machine."""
    with Engine("embedded", **ENGINE) as engine:
        return drawn(engine)


@pytest.fixture(scope="module")
def expected() -> tuple[torch.Tensor, Image.Image]:
    """Latents and picture of the unmodified pipeline in this process."""
    asked = [(PROMPT, SEED)]
    (latents,), (picture,) = (made_alone(asked, steps=STEPS, output_type=kind) for kind in ("latent", "pil"))
    return latents, picture


def drawn(engine: Engine, **options: Any) -> Any:
    """One picture."""
    return engine.generate(PROMPT, steps=STEPS, seed=SEED, progress=False, **options)[0]


@pytest.mark.matrix
def test_pictures_are_those_of_the_engine_on_this_machine(engine: Engine, local: Image.Image) -> None:
    assert np.array_equal(np.asarray(drawn(engine)), np.asarray(local))


def test_pictures_are_those_of_one_process(
    engine: Engine, nodes: TwoNodes, expected: tuple[torch.Tensor, Image.Image]
) -> None:
    steps: list[Step] = []
    picture = drawn(engine, callback=steps.append, preview={2})
    latents, alone = expected
    assert np.abs(np.asarray(picture, dtype=int) - np.asarray(alone, dtype=int)).max() <= 1  # rounded to 256 levels
    assert [(step.step, step.preview is not None) for step in steps] == [(1, False), (2, True), (3, False), (4, False)]
    assert engine.cluster == f"ray {nodes.address}"  # also of one that was made with ray="auto"
    error = (drawn(engine, output_type="latent") - latents).abs().max() / latents.abs().max()
    assert error <= 1e-5
    variables = [psutil.Process(pid).environ() for pid in engine.processes]  # both nodes are this machine
    assert [(each["RANK"], each["LOCAL_RANK"], each["LOCAL_WORLD_SIZE"]) for each in variables] == [
        ("0", "0", "1"),
        ("1", "0", "1"),
    ]
    assert all("TOKENRING_API_KEY" not in each for each in variables)
    with pytest.raises(
        ConfigurationError, match="'joint_attention_kwargs' cannot be sent to the ranks: a slice is not"
    ):
        drawn(engine, joint_attention_kwargs={"scale": slice(1)})
    with pytest.raises(ConfigurationError, match=r"3 ranks were asked for, and the Ray cluster has 2 CPUs"):
        Engine("embedded", tokenring_degree=3, ray="auto")
    with pytest.raises(ConfigurationError, match="this process is connected to the cluster of"):
        Engine("embedded", ray="127.0.0.1:1", **ENGINE)


def in_the_middle(engine: Engine, do: Callable[[], object]) -> str:
    """What a long request says when something happens after its second step."""

    def at_second(step: Step) -> None:
        if step.step == 2:
            do()

    with pytest.raises(EngineError) as raised:
        engine.generate(PROMPT, steps=FAR, seed=SEED, progress=False, callback=at_second)
    return str(raised.value).partition("\n")[0]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("whose", "number", "said"),
    [
        ("rank", signal.SIGKILL, r"rank 1 on node \S+ was killed by SIGKILL, .* \(process \d+\)"),
        ("rank", signal.SIGSTOP, r"rank 1 on node \S+ is stopped \(process \d+\) and was waited for"),
        ("actor", signal.SIGKILL, r"rank 1 on node \S+ was lost with the actor of process \d+: it was killed"),
        ("actor", signal.SIGSTOP, r"rank 1 on node \S+ cannot be reached: the actor of process \d+ did not answer"),
    ],
)
def test_a_rank_that_is_lost_is_named_and_the_world_is_started_again(
    engine: Engine, local: Image.Image, monkeypatch: pytest.MonkeyPatch, whose: str, number: int, said: str
) -> None:
    engine.start()
    monkeypatch.setenv(LIMIT_VARIABLE, "5")
    rank = psutil.Process(engine.processes[1])
    process = rank if whose == "rank" else rank.parent()
    assert process is not None
    assert re.match(said, in_the_middle(engine, lambda: os.kill(process.pid, number)))
    monkeypatch.undo()
    assert np.array_equal(np.asarray(drawn(engine)), np.asarray(local))
    _, alive = psutil.wait_procs([rank, process], timeout=60)
    assert not alive


@pytest.mark.matrix
def test_a_node_that_dies_is_named_and_missed_until_it_is_back(
    engine: Engine, nodes: TwoNodes, local: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.start()
    address = engine.workers[1].node
    assert re.match(
        rf"rank [01] on node {address} was lost with the actor of process \d+: its node died",
        in_the_middle(engine, nodes.lose),
    )
    monkeypatch.setenv("TOKENRING_RAY_WAIT", "90")
    with pytest.raises(EngineError, match=rf"node {address} did not come back within 90 s \(TOKENRING_RAY_WAIT\)"):
        engine.start()
    nodes.bring_back()
    monkeypatch.setenv("TOKENRING_RAY_WAIT", "600")
    assert np.array_equal(np.asarray(drawn(engine)), np.asarray(local))
