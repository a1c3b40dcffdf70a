"""``Engine`` with real ranks: exact, and still there after whatever happened to a request."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from tests.support.embedded import made_alone
from tests.support.families import FAMILIES
from tests.support.reference import relative_error
from tokenring_xdit import Engine, Step
from tokenring_xdit.errors import (
    CancelledError,
    ConfigurationError,
    EngineError,
    ScheduleError,
    TokenRingError,
    UnsupportedError,
)
from tokenring_xdit.liveness import LIMIT_VARIABLE
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.pipelines.flux import FluxModel

TOLERANCE = 1e-5

PROMPTS = ["a red circle left of a blue square", "two green squares side by side", "a blue triangle"]
SEED = 5
STEPS = 4
FAR = 100_000  # steps: longer than any of these tests

ENGINE: dict[str, Any] = {
    "model": "embedded",
    "tokenring_degree": 2,
    "attention_backend": "sdpa_flash",
    "largest_side": 2**20,
}


@pytest.fixture(scope="module", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Logs that errors name go where pytest cleans up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("engines")))
        yield


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine of two ranks, for requests good and bad."""
    with Engine(**ENGINE) as engine:
        yield engine


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    """The latents of each prompt from the unmodified pipeline, one at a time in this process."""
    return made_alone(((prompt, SEED + i) for i, prompt in enumerate(PROMPTS)), steps=STEPS, output_type="latent")


def ranks_of(process: psutil.Process | None = None) -> dict[int, psutil.Process]:
    """The ranks that a process has started, by their process id."""
    found = {}
    for child in (process or psutil.Process()).children(recursive=True):
        try:
            if "tokenring_xdit.pipelines.serving" in child.cmdline():
                found[child.pid] = child
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def own_ranks(engine: Engine) -> dict[int, psutil.Process]:
    """The ranks of an engine, by their device."""
    alive = ranks_of()
    return {int(alive[pid].environ()["LOCAL_RANK"]): alive[pid] for pid in engine.processes}


def gone(processes: dict[Any, psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(list(processes.values()), timeout=60)
    return not alive


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether something is so before long: threads of ranks that have ended end after them."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def serves(engine: Engine, expected: list[Tensor]) -> bool:
    """Whether it makes the first prompt's latents, exactly."""
    (latents,) = engine.generate(PROMPTS[0], steps=STEPS, seed=SEED, output_type="latent", progress=False)
    return relative_error(latents, expected[0]) <= TOLERANCE


def in_the_middle(engine: Engine, do: Callable[[], object]) -> BaseException:
    """What a long request raises when something happens after its second step."""

    def at_second(step: Step) -> None:
        if step.step == 2:
            do()

    with pytest.raises((TokenRingError, KeyboardInterrupt)) as raised:
        engine.generate(PROMPTS[0], steps=FAR, callback=at_second, progress=False)
    return raised.value


@pytest.mark.e2e
@pytest.mark.smoke
def test_a_list_equals_the_prompts_one_by_one_in_one_process(engine: Engine, expected: list[Tensor]) -> None:
    latents = engine.generate(PROMPTS, steps=STEPS, seed=SEED, output_type="latent", progress=False)
    assert len(latents) == len(PROMPTS)
    for actual, one in zip(latents, expected, strict=True):
        assert relative_error(actual, one) <= TOLERANCE
    assert serves(engine, expected)


@pytest.mark.e2e
def test_prompts_spread_over_replicas_and_one_of_them_killed(expected: list[Tensor]) -> None:
    with Engine("embedded", data_parallel_degree=2) as engine:
        seen: set[range] = set()
        latents = engine.generate(
            PROMPTS,
            steps=STEPS,
            seed=SEED,
            output_type="latent",
            progress=False,
            callback=lambda s: seen.add(s.prompts),
        )
        assert seen == {range(1), range(1, 3)}
        for actual, one in zip(latents, expected, strict=True):
            assert relative_error(actual, one) <= TOLERANCE
        with pytest.raises(ConfigurationError, match="'latents' is a tensor, which is not dealt out to 2 replicas"):
            engine.generate(PROMPTS, latents=torch.zeros(len(PROMPTS), 64, FluxModel.find(str(MODEL_PATH)).channels))
        before = own_ranks(engine)

        def kill(step: Step) -> None:
            with contextlib.suppress(psutil.NoSuchProcess):  # at the other replica's step
                before[1].kill()

        with pytest.raises(EngineError, match="rank 0 of replica 1 was killed by SIGKILL"):
            engine.generate(PROMPTS, steps=FAR, progress=False, callback=kill)
        again = engine.generate(PROMPTS, steps=STEPS, seed=SEED, output_type="latent", progress=False)
        assert all(relative_error(a, e) <= TOLERANCE for a, e in zip(again, expected, strict=True))
        after = own_ranks(engine)
        assert after.keys() == {0, 1}
        assert after[0].pid == before[0].pid
        assert after[1].pid != before[1].pid
    assert gone(after)


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_replica_that_dies_with_nothing_to_do_is_started_again(expected: list[Tensor]) -> None:
    with Engine("embedded", data_parallel_degree=2) as engine:
        before = own_ranks(engine)
        before[0].kill()
        assert gone({0: before[0]})
        engine.start()
        after = own_ranks(engine)
        assert after[0].pid != before[0].pid
        assert after[1].pid == before[1].pid
        assert serves(engine, expected)
        assert own_ranks(engine).keys() == {0, 1}
    assert gone(after)


@pytest.mark.e2e
def test_pictures_previews_and_the_bar(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[Step] = []
    (picture,) = engine.generate(PROMPTS[0], steps=3, seed=SEED, callback=steps.append, preview=True)
    assert picture.size == (64, 64)
    assert [(s.step, s.steps, s.prompts) for s in steps] == [(1, 3, range(1)), (2, 3, range(1)), (3, 3, range(1))]
    assert np.array_equal(np.asarray(steps[-1].preview), np.asarray(picture))
    assert not np.array_equal(np.asarray(steps[0].preview), np.asarray(picture))
    assert "denoising: 100%" in capfd.readouterr().err
    steps.clear()
    engine.generate(PROMPTS[0], steps=1, callback=steps.append, progress=False)
    assert [s.preview for s in steps] == [None]
    assert capfd.readouterr().err == ""


@pytest.mark.e2e
def test_a_drawn_seed_is_told(engine: Engine) -> None:
    options: dict[str, Any] = {"steps": 1, "output_type": "latent", "progress": False}
    (drawn,) = engine.generate(PROMPTS[0], **options)
    first = engine.last_seed
    (again,) = engine.generate(PROMPTS[0], seed=first, **options)
    assert torch.equal(drawn, again)
    (other,) = engine.generate(PROMPTS[0], **options)
    assert engine.last_seed != first
    assert not torch.equal(drawn, other)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"prompt": 3}, ConfigurationError, "prompt is 3; it has to be a string"),
        ({"prompt": []}, ConfigurationError, "at least one string"),
        ({"frames": 9}, ConfigurationError, "FluxPipeline takes no frames. It takes: prompt"),
        ({"widht": 64}, ConfigurationError, "takes no option 'widht'"),
        ({"height": 30}, ConfigurationError, "size 64x30 is not a multiple of 8 pixels"),
        ({"width": 8, "height": 8}, UnsupportedError, "2 ranks are more than the 1 image tokens"),
        ({"max_sequence_length": "long"}, ConfigurationError, "max_sequence_length is 'long'"),
        ({"joint_attention_kwargs": {"f": lambda: 0}}, ConfigurationError, "'joint_attention_kwargs' cannot be sent"),
        ({"width": 2**20 + 8}, ConfigurationError, "width is 1048584 pixels, and 1048576 are the most"),
        ({"output_type": "nope"}, ConfigurationError, "output_type is 'nope'; it has to be one of pil, np, pt, latent"),
        ({"sigmas": [math.nan]}, ConfigurationError, "sigmas is [nan]; it has to be a list of finite numbers"),
        ({"prompt_2": 3}, ConfigurationError, "prompt_2 is 3; it has to be a string or None or a list"),
        ({"latents": torch.zeros(1, 64, 8)}, ConfigurationError, "latents has shape (1, 64, 8); (1, 64, "),
        # What only the pipeline itself can refuse, on all ranks.
        (
            {"prompt": "", "prompt_embeds": torch.zeros(1, 24, 8)},
            ConfigurationError,
            "FluxPipeline refuses this request: If `prompt_embeds` are provided, `pooled_prompt_embeds` also have",
        ),
    ],
)
@pytest.mark.e2e
def test_a_bad_request_costs_nothing(
    engine: Engine, expected: list[Tensor], arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = own_ranks(engine)
    with pytest.raises(error, match=re.escape(said)):
        engine.generate(**{"prompt": PROMPTS[0], "progress": False, **arguments})
    assert serves(engine, expected)
    assert own_ranks(engine) == before


def test_memory_that_runs_out_on_all_ranks_costs_nothing(engine: Engine, expected: list[Tensor]) -> None:
    before = own_ranks(engine)
    with pytest.raises(EngineError, match=r"all ranks failed alike.*can't allocate memory") as raised:
        engine.generate(PROMPTS[0], width=2**20, height=2**20, steps=1, progress=False)
    assert "can't allocate memory" in log_of(raised.value).read_text()
    assert serves(engine, expected)
    assert own_ranks(engine) == before


def log_of(error: BaseException) -> Path:
    """The log that an error names."""
    return Path(str(error).split("(log: ")[1].rstrip(")"))


@pytest.mark.e2e
@pytest.mark.matrix
def test_memory_that_runs_out_on_one_rank(engine: Engine, expected: list[Tensor]) -> None:
    starved = own_ranks(engine)[1]
    limit = starved.memory_info().vms + 2**24
    resource.prlimit(starved.pid, resource.RLIMIT_AS, (limit, limit))
    with pytest.raises(
        EngineError, match=r"^rank 1 failed .*(can't allocate|MemoryError|could not create a primitive)"
    ):
        engine.generate(PROMPTS[0], width=512, height=512, steps=2, progress=False)
    assert serves(engine, expected)
    assert gone({1: starved})


@pytest.mark.e2e
@pytest.mark.smoke
def test_a_rank_that_is_killed_is_named_and_started_again(engine: Engine, expected: list[Tensor]) -> None:
    before = own_ranks(engine)
    error = in_the_middle(engine, before[1].kill)
    assert isinstance(error, EngineError)
    assert f"rank 1 was killed by SIGKILL, as Linux does when memory runs out (process {before[1].pid})" in str(error)
    assert gone(before)
    assert serves(engine, expected)
    assert own_ranks(engine).keys() == before.keys()


@pytest.mark.e2e
def test_a_rank_that_is_stopped_is_named(
    engine: Engine, expected: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "2")
    before = own_ranks(engine)
    error = in_the_middle(engine, before[1].suspend)
    assert isinstance(error, EngineError)
    assert str(error).startswith(f"rank 1 is stopped (process {before[1].pid})")
    assert gone(before)
    assert serves(engine, expected)


@pytest.mark.e2e
@pytest.mark.matrix
def test_ranks_that_take_too_long_are_given_up(
    engine: Engine, expected: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = own_ranks(engine)
    with monkeypatch.context() as patched:
        patched.setattr(engine, "timeout", 1e-4)
        with pytest.raises(EngineError, match=r"^ranks 0, 1 gave no sign of life for 0\.0001 s"):
            engine.generate(PROMPTS[0], steps=FAR, progress=False)
    assert gone(before)
    assert serves(engine, expected)


@pytest.mark.e2e
def test_what_a_callback_raises_cancels_and_comes_out(engine: Engine, expected: list[Tensor]) -> None:
    before = own_ranks(engine)

    def refuse(step: Step) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        engine.generate(PROMPTS[0], steps=FAR, callback=refuse, progress=False)
    assert serves(engine, expected)
    assert own_ranks(engine) == before


@pytest.mark.e2e
def test_cancelling_from_a_callback_and_from_another_thread(engine: Engine, expected: list[Tensor]) -> None:
    before = own_ranks(engine)
    engine.cancel()  # nothing runs
    assert isinstance(in_the_middle(engine, engine.cancel), CancelledError)
    assert serves(engine, expected)

    def start() -> None:
        threads.append(threading.Thread(target=engine.cancel))
        threads[-1].start()

    threads: list[threading.Thread] = []
    assert isinstance(in_the_middle(engine, start), CancelledError)
    threads[0].join()
    assert serves(engine, expected)
    assert own_ranks(engine) == before


@pytest.mark.e2e
def test_what_was_submitted_is_followed_and_given_up_by_itself(engine: Engine, expected: list[Tensor]) -> None:
    before = own_ranks(engine)
    with pytest.raises(TokenRingError, match="stepz"):
        engine.submit(PROMPTS[0], stepz=1)
    asked = {"seed": SEED, "output_type": "latent"}
    first = engine.submit(PROMPTS[0], steps=FAR, **asked)
    second = engine.submit(PROMPTS[0], steps=STEPS, **asked)
    waiting = engine.submit(PROMPTS[1], steps=STEPS, **asked)
    assert first.seconds_left is None or first.seconds_left > 0
    for step in first.steps():
        if step.step == 3:
            assert (first.seconds_left or 0) > 0
            break
    waiting.cancel()
    assert not second.done
    first.cancel()
    for given_up in (first, waiting):
        with pytest.raises(CancelledError):
            given_up.result()
    assert [step.step for step in second.steps()] == list(range(1, STEPS + 1))
    first.cancel()  # too late for any other
    (latents,) = second.result()
    assert relative_error(latents, expected[0]) <= TOLERANCE
    assert (second.seconds_left, second.done, second.cancelled) == (0.0, True, False)
    assert own_ranks(engine) == before


@pytest.mark.e2e
def test_an_interrupt_cancels_and_comes_out(engine: Engine, expected: list[Tensor]) -> None:
    before = own_ranks(engine)

    def soon() -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert isinstance(in_the_middle(engine, soon), KeyboardInterrupt)  # while the ranks are waited for
    assert isinstance(in_the_middle(engine, lambda: os.kill(os.getpid(), signal.SIGINT)), KeyboardInterrupt)
    assert serves(engine, expected)
    assert own_ranks(engine) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_second_interrupt_does_not_wait_for_the_ranks(engine: Engine, expected: list[Tensor]) -> None:
    before = own_ranks(engine)

    def soon() -> None:
        before[0].suspend()  # so that no step follows at which to give up
        for seconds in (0.2, 2.0):  # the first one was heard by then
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert isinstance(in_the_middle(engine, soon), KeyboardInterrupt)
    assert gone(before)
    assert serves(engine, expected)


@pytest.mark.e2e
def test_one_request_at_a_time(engine: Engine, expected: list[Tensor]) -> None:
    def ask_again(step: Step) -> None:
        engine.generate(PROMPTS[0], steps=1)

    with pytest.raises(ConfigurationError, match="the request whose callback asks for another one"):
        engine.generate(PROMPTS[0], steps=FAR, callback=ask_again, progress=False)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(serves(engine, expected))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 3


def test_a_fork_cannot_use_it_nor_harm_it(engine: Engine, expected: list[Tensor]) -> None:
    child = os.fork()
    if child == 0:
        try:
            engine.generate(PROMPTS[0])
        except ConfigurationError as error:
            engine.close()
            os._exit(7 if "fork" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert serves(engine, expected)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": "./no/such/folder"}, ConfigurationError, "there is no model folder './no/such/folder'"),
        ({"tokenring_degree": 0}, ConfigurationError, "tokenring_degree is 0"),
        ({"ulysses_degree": 3}, UnsupportedError, "does not divide the model's 4 heads"),
        ({"schedule": "tokenrng"}, ScheduleError, "Did you mean 'token_ring'?"),
        ({"data_parallel_degree": 0}, ConfigurationError, "data_parallel_degree is 0"),
        ({"attention_backend": "math"}, ConfigurationError, "'math' is no attention backend that TokenRing can use"),
        ({"dtype": "int8"}, ConfigurationError, "'int8' is not a dtype. Known: bfloat16"),
        ({"model": None}, ConfigurationError, "model is None; it has to be the folder or hub name"),
        ({"tokenring_degree": "2"}, ConfigurationError, "tokenring_degree is '2'; it has to be a whole number"),
        ({"tokenring_degree": True}, ConfigurationError, "tokenring_degree is True"),
        ({"data_parallel_degree": 1.5}, ConfigurationError, "data_parallel_degree is 1.5"),
        ({"schedule": None}, ConfigurationError, "schedule is None; it has to be a name"),
        ({"timeout": "long"}, ConfigurationError, "timeout is 'long'"),
        ({"timeout": 0}, ConfigurationError, "timeout is 0"),
        ({"largest_side": 0}, ConfigurationError, "largest_side is 0"),
        ({"timeout": float("inf")}, ConfigurationError, "timeout is inf"),
        (
            {"tokenring_degree": 2, "cuda_graphs": "yes"},
            ConfigurationError,
            "cuda_graphs is 'yes'; it has to be True or",
        ),
        ({"cuda_graphs": True}, ConfigurationError, "cuda_graphs is for ranks that share a transformer, and one rank"),
        pytest.param(
            {"tokenring_degree": 2, "cuda_graphs": True},
            UnsupportedError,
            "cuda_graphs=True needs a GPU with CUDA, and torch finds none on this machine: leave it out",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU"),
        ),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        Engine(**{"model": "embedded", **arguments})


@pytest.mark.e2e
def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    known = ranks_of()
    shutil.copytree(MODEL_PATH, tmp_path / "model")
    (weights,) = (tmp_path / "model" / "vae").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineError, match=r"^rank 0 failed while it loaded: ") as raised:
        Engine(str(tmp_path / "model"))
    assert "Traceback" in log_of(raised.value).read_text()
    assert comes_true(lambda: ranks_of() == known)


def test_too_few_file_descriptors_to_start() -> None:
    gc.collect()
    known, descriptors = ranks_of(), os.listdir("/proc/self/fd")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (number for number in itertools.count() if str(number) not in descriptors)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, 8, None)), limits[1]))
    try:
        with pytest.raises(EngineError, match=r"the ranks could not be started: .*Too many open files"):
            Engine("embedded", data_parallel_degree=3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    gc.collect()
    assert comes_true(lambda: ranks_of() == known)
    assert comes_true(lambda: len(os.listdir("/proc/self/fd")) == len(descriptors))


@pytest.mark.e2e
def test_ranks_are_started_when_somebody_asks_and_may_be_ended_while_they_load() -> None:
    engine = Engine(**ENGINE, start=False)
    assert engine.check(PROMPTS[0]).prompt == PROMPTS[0]
    assert engine.processes == []
    found: list[psutil.Process] = []

    def end() -> None:
        while len(engine.processes) < 2:
            time.sleep(0.01)
        found.extend(map(psutil.Process, engine.processes))
        engine.close()

    ending = threading.Thread(target=end)
    ending.start()
    with pytest.raises(ConfigurationError, match="this engine was closed"):
        engine.start()
    ending.join()
    assert not psutil.wait_procs(found, timeout=60)[1]


@pytest.mark.e2e
def test_closing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = Engine("embedded")
    assert list(tmp_path.iterdir()) == []  # nor is there anything while it runs, which a sudden end could leave
    ranks = own_ranks(engine)
    closing = threading.Thread(target=engine.close)
    error = in_the_middle(engine, closing.start)
    closing.join()
    assert "this engine was closed while it served this request" in str(error)
    assert gone(ranks)
    engine.close()
    with pytest.raises(ConfigurationError, match="this engine was closed: make a new one"):
        engine.generate(PROMPTS[0])


@pytest.mark.e2e
def test_garbage_collection_leaves_nothing_behind() -> None:
    gc.collect()
    known, descriptors, threads = ranks_of(), os.listdir("/proc/self/fd"), threading.active_count()
    engine = Engine("embedded")
    engine.generate(PROMPTS[0], steps=1, progress=False)
    ranks = own_ranks(engine)
    assert ranks
    del engine
    gc.collect()
    assert gone(ranks)
    assert comes_true(lambda: ranks_of() == known)
    assert comes_true(lambda: len(os.listdir("/proc/self/fd")) == len(descriptors))
    assert comes_true(lambda: threading.active_count() == threads)


SCRIPT = f"""
import os, time
import tokenring_xdit

engine = tokenring_xdit.Engine("embedded")
child = os.fork()
if child == 0:  # it must not keep the ranks alive
    time.sleep(600)
print("child", child, flush=True)

def say(step):
    if step.step == 2:
        print("step", flush=True)

try:
    engine.generate({PROMPTS[0]!r}, steps={FAR}, progress=False, callback=say)
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(len(engine.generate({PROMPTS[0]!r}, steps=1, progress=False)), "picture", flush=True)
engine.generate({PROMPTS[0]!r}, steps={FAR}, progress=False, callback=say)
"""


@pytest.mark.e2e
@pytest.mark.matrix
def test_ctrl_c_in_a_script_and_its_sudden_death(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline().split()[1]))
        try:
            assert process.stdout.readline() == "step\n"
            ranks = ranks_of(psutil.Process(process.pid))
            assert len(ranks) == 1
            child.suspend()  # the signal is for the others of its group
            os.killpg(process.pid, signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            assert process.stdout.readline() == "1 picture\n"
            assert process.stdout.readline() == "step\n"
            assert ranks_of(psutil.Process(process.pid)) == ranks
            process.kill()
            process.wait()
            assert gone(ranks)
            assert child.is_running()
        finally:
            child.kill()


PREVIEWED = {"flux", "hunyuan-dit", "lumina2", "sd3", "sd3.5-medium", "z-image"}


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("flux-")])
@pytest.mark.matrix
def test_every_pipeline(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    family.make().save_pretrained(tmp_path)
    alone = {**family.inputs(prompts=PROMPTS[:2]), "generator": [generator(SEED), generator(SEED + 1)]}
    expected = latents_of(family.make()(**alone))
    arguments = family.inputs(prompts=PROMPTS[:2])  # Z-Image's pipeline writes into those that it was given
    with Engine(str(tmp_path), tokenring_degree=2) as engine:
        steps: list[Step] = []
        actual = engine.generate(**renamed(arguments), seed=SEED, callback=steps.append, preview=True, progress=False)
        assert relative_error(torch.stack(actual), expected) <= TOLERANCE
        assert [(s.step, s.preview is not None) for s in steps] == [(1, name in PREVIEWED), (2, name in PREVIEWED)]
        before = own_ranks(engine)
        with pytest.raises(LookupError):
            engine.generate(**renamed(arguments), callback=lambda step: {}["no"], progress=False)
        media = engine.generate(**{**renamed(arguments), "output_type": "pil"}, seed=SEED, progress=False)
        assert own_ranks(engine) == before
    frames = renamed(arguments).get("frames")
    assert [len(medium) for medium in media if isinstance(medium, list)] == ([frames] * 2 if frames else [])
    sizes = {frame.size for medium in media for frame in (medium if frames else [medium])}
    assert sizes == {(arguments["width"], arguments["height"])}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def renamed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline's call in the words of :meth:`Engine.generate`."""
    names = {
        "num_frames": "frames",
        "video_length": "frames",
        "num_inference_steps": "steps",
        "guidance_scale": "guidance",
    }
    return {names.get(name, name): value for name, value in arguments.items() if name != "generator"}


def latents_of(output: Any) -> Tensor:
    latents = getattr(output, "images", getattr(output, "frames", None))
    assert isinstance(latents, Tensor)
    return latents
