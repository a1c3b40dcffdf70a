"""How far forecasts of a server are off for sizes that it has not served, after ten requests; on an idle machine.

python scripts/serve_forecast.py embedded tokenring_degree=2 steps=4
python scripts/serve_forecast.py smollm2 tokenring_degree=2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
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


def pictures(config: Any) -> Callable[[int], Order]:
    """Squares."""
    steps = config.steps or 4

    def order(side: int) -> Order:
        sizes = {"width": side, "height": side, "steps": steps}
        return PictureOrder("image", 1, "a red circle", steps=steps, pixels=side * side, arguments=sizes)

    return order


def texts(config: Any) -> Callable[[int], Order]:
    """Questions of so many words, each a conversation of its own."""
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
        order = texts(config) if isinstance(config, TextServeConfig) else pictures(config)
        runner = runner_of(config)

        def serve(size: int) -> tuple[float, int, int]:
            """Seconds, bytes of the rank that held most, and steps."""
            job = Job(order(size), lambda event: None)
            start = time.perf_counter()
            runner.make(engine, job, engine.timeout)
            return time.perf_counter() - start, max((use.peak for use in engine.memory), default=0), job.step

        serve(SERVED[0])  # a first request allocates what the others use
        runner = runner_of(config)
        for size in SERVED:
            serve(size)
        jobs = {size: Job(order(size), lambda event: None) for size in HELD_OUT}
        predicted = {size: (runner.seconds(job), runner.peak_bytes(job)) for size, job in jobs.items()}
        print("size   seconds predicted, real, ratio   MiB of a rank predicted, real, ratio")
        for size, (seconds, peak) in predicted.items():
            real, held, steps = serve(size)
            short = jobs[size].order.all_steps - steps  # of answers that ended early
            note = f"  ({short} tokens fewer)" if short else ""
            memory = f"{peak / 2**20:8.1f} {held / 2**20:8.1f} {held / peak:5.2f}" if peak else "not told here"
            print(f"{size:4} {seconds:12.3f} {real:8.3f} {real / seconds:5.2f} {memory:>32}{note}")


if __name__ == "__main__":
    main()
