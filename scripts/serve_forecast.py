"""How far forecasts of a server are off for sizes that it has not served, after ten requests; on an idle machine.

python scripts/serve_forecast.py --ranks 2 --steps 4
"""

from __future__ import annotations

import argparse
import time

from tokenring_xdit import Engine
from tokenring_xdit.serve.forecast import Forecast
from tokenring_xdit.serve.jobs import Job, PictureOrder
from tokenring_xdit.serve.memory import MemoryForecast
from tokenring_xdit.serve.picture_runner import Drawing

SERVED = (64, 128, 64, 256, 192, 128, 384, 256, 64, 384)
HELD_OUT = (96, 160, 224, 320, 448)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    memory, forecast = MemoryForecast(), Forecast()
    drawing = Drawing(forecast, lambda seconds: None, memory)
    with Engine(args.model, tokenring_degree=args.ranks) as engine:

        def draw(side: int) -> float:
            sizes = {"width": side, "height": side, "steps": args.steps}
            order = PictureOrder("image", 1, "a red circle", steps=args.steps, pixels=side * side, arguments=sizes)
            start = time.perf_counter()
            drawing.make(engine, Job(order, lambda event: None), engine.timeout)
            return time.perf_counter() - start

        draw(SERVED[0])  # a first request allocates what the others use
        memory, forecast = MemoryForecast(), Forecast()
        drawing = Drawing(forecast, lambda seconds: None, memory)
        for side in SERVED:
            draw(side)
        predicted = {side: (forecast.seconds(side**2, args.steps), memory.needed(side**2)) for side in HELD_OUT}
        print("size   seconds predicted, real, ratio   MiB with the model predicted, real, ratio   beyond it")
        for side, (seconds, needed) in predicted.items():
            real = draw(side)
            assert seconds is not None
            assert needed is not None
            model = max(use.model for use in engine.memory)
            peak = max(use.peak for use in engine.memory)
            share = (peak - model) / needed
            memories = f"{(model + needed) / 2**20:8.1f} {peak / 2**20:8.1f} {peak / (model + needed):5.2f}"
            print(f"{side:4} {seconds:12.3f} {real:8.3f} {real / seconds:5.2f} {memories:>40} {share:10.2f}")


if __name__ == "__main__":
    main()
