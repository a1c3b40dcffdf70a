"""Plans before anything runs: what a schedule costs on a network, and which one to take. Pure Python."""

from tokenring_xdit.model_shapes import ModelShape
from tokenring_xdit.planning.effects import NO_EFFECTS, Effects
from tokenring_xdit.planning.machine import Attention, Launches, Machine
from tokenring_xdit.planning.options import TIE, Option
from tokenring_xdit.planning.others import Inside, gathered, ulysses
from tokenring_xdit.planning.planner import best_schedules, plan, split_seconds
from tokenring_xdit.planning.simulate import Simulation, run, simulate
from tokenring_xdit.schedule.problem import Problem, even_shares

__all__ = [
    "NO_EFFECTS",
    "TIE",
    "Attention",
    "Effects",
    "Inside",
    "Launches",
    "Machine",
    "ModelShape",
    "Option",
    "Problem",
    "Simulation",
    "best_schedules",
    "even_shares",
    "gathered",
    "plan",
    "run",
    "simulate",
    "split_seconds",
    "ulysses",
]
