"""Plans before anything runs: what a schedule costs on a network, and which one to take. Pure Python."""

from tokenring_xdit.model_shapes import ModelShape
from tokenring_xdit.planning.auto import AUTO, Auto
from tokenring_xdit.planning.cost import Attention, Cost, Launches
from tokenring_xdit.planning.options import TIE, Option, Split
from tokenring_xdit.planning.others import Inside, gathered, ulysses
from tokenring_xdit.planning.planner import best_schedules, plan
from tokenring_xdit.planning.simulate import Simulation, run, simulate
from tokenring_xdit.schedule.problem import Problem, even_shares

__all__ = [
    "AUTO",
    "TIE",
    "Attention",
    "Auto",
    "Cost",
    "Inside",
    "Launches",
    "ModelShape",
    "Option",
    "Problem",
    "Simulation",
    "Split",
    "best_schedules",
    "even_shares",
    "gathered",
    "plan",
    "run",
    "simulate",
    "ulysses",
]
