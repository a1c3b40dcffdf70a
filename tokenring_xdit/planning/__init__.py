"""Plans before anything runs: what a schedule costs on a network, and which one to take. Pure Python."""

from tokenring_xdit.planning.cost import Cost
from tokenring_xdit.planning.problem import Problem
from tokenring_xdit.planning.programs import gathered, of_schedule, ulysses
from tokenring_xdit.planning.simulate import Simulation, run, simulate

__all__ = ["Cost", "Problem", "Simulation", "gathered", "of_schedule", "run", "simulate", "ulysses"]
