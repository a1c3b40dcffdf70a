"""How far forecasts of a server are off for sizes that it has not served, after ten requests.

Those sizes are made in between, by who learns nothing, so that a machine that becomes busier is so for both.

python scripts/serve_forecast.py embedded tokenring_degree=2 steps=4
python scripts/serve_forecast.py smollm2 tokenring_degree=2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenring_xdit.config import read_config
from tokenring_xdit.pipelines.text_models import load_tokenizer
from tokenring_xdit.pipelines.text_orders import ChatMessage
from tokenring_xdit.pipelines.text_prompt import conversation_tokens
from tokenring_xdit.serve.chat_runner import ChatRunner
from tokenring_xdit.serve.config import AnyServeConfig, TextServeConfig, serve_schema
from tokenring_xdit.serve.foresee import Learned
from tokenring_xdit.serve.jobs import Job, Order, PictureOrder, TextOrder
from tokenring_xdit.serve.picture_runner import PictureRunner
from tokenring_xdit.serve.service import make_engine

SERVED = (64, 128, 64, 256, 192, 128, 384, 256, 64, 384)
HELD_OUT = (96, 160, 224, 320, 448)
"""Pixels of a side; words of a question."""


_ANSWER = 24  # tokens


@dataclass(frozen=True)
class Served:
    """Seconds of a request, bytes of the rank that held most, and its steps."""

    seconds: float
    peak: int
    steps: int


def pictures(config: Any) -> Callable[[int], Order]:
    """Squares."""
    steps = config.steps or 4

    def order(side: int) -> Order:
        sizes = {"width": side, "height": side, "steps": steps}
        return PictureOrder("image", 1, "a red circle", steps=steps, pixels=side * side, arguments=sizes)

    return order


def texts(config: Any) -> Callable[[int], Order]:
    """Questions of this many words, each a conversation of its own."""
    tokenizer, asked = load_tokenizer(config.model), iter(range(1_000_000))

    def order(words: int) -> Order:
        question = f"{next(asked)}: {'the ' * words}end"
        tokens = len(conversation_tokens(tokenizer, [ChatMessage("user", question)]))
        messages = ({"role": "user", "content": question},)
        return TextOrder("text", 1, messages, {"max_new_tokens": _ANSWER}, tokens, _ANSWER)

    return order


def runner_of(config: AnyServeConfig) -> Any:
    """Who serves, and knows nothing yet."""
    learned = Learned(config)
    if isinstance(config, TextServeConfig):
        return ChatRunner(learned.forecast, lambda times: None, learned.memory, kept=1)
    return PictureRunner(learned.forecast, lambda seconds: None, learned.memory)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="embedded")
    parser.add_argument("values", nargs="*", metavar="key=value")
    args = parser.parse_args()
    said = [f"model={args.model}", *args.values, "forecasts=none"]
    config: AnyServeConfig = read_config(serve_schema, None, said)
    with make_engine(config, 1800.0, None) as engine:
        engine.start()
        order = texts(config) if isinstance(config, TextServeConfig) else pictures(config)

        def serve(runner: Any, size: int) -> Served:
            job = Job(order(size), lambda event: None)
            start = time.perf_counter()
            runner.make(engine, job, engine.timeout)
            peak = max((use.peak for use in engine.memory), default=0)
            return Served(time.perf_counter() - start, peak, job.step)

        learns, other = runner_of(config), runner_of(config)
        serve(other, max(SERVED))  # a first request allocates what the others use
        real: dict[int, list[Served]] = {size: [] for size in HELD_OUT}
        for size, between in zip(SERVED, (*HELD_OUT, *HELD_OUT), strict=True):
            serve(learns, size)
            real[between].append(serve(other, between))
        print("size   seconds predicted, real, ratio   MiB of a rank predicted, real, ratio")
        for size, found in real.items():
            job = Job(order(size), lambda event: None)
            seconds, peak = learns.seconds(job), learns.peak_bytes(job)
            took, held = statistics.mean(each.seconds for each in found), max(each.peak for each in found)
            short = job.order.all_steps - found[0].steps  # of answers that ended early
            note = f"  ({short} tokens fewer)" if short else ""
            memory = f"{peak / 2**20:8.1f} {held / 2**20:8.1f} {held / peak:5.2f}" if peak else "not told here"
            print(f"{size:4} {seconds:12.3f} {took:8.3f} {took / seconds:5.2f} {memory:>32}{note}")


if __name__ == "__main__":
    main()
