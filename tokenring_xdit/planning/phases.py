"""Which strategy each phase of a language model takes: a whole prompt, the next turn, a step of an answer."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import Enum

from tokenring_xdit.planning.effects import NO_EFFECTS, Effects
from tokenring_xdit.planning.layer_turn import LayerTurn, StrategyForecast, few_tokens
from tokenring_xdit.planning.machine import Machine
from tokenring_xdit.planning.many_ranks import MANY_RANKS, bounds
from tokenring_xdit.planning.options import TIE
from tokenring_xdit.planning.planner import best_schedules
from tokenring_xdit.planning.simulate import run
from tokenring_xdit.planning.straight import Way
from tokenring_xdit.schedule import Mask
from tokenring_xdit.schedule.problem import Problem
from tokenring_xdit.topology import Network

__all__ = ["LanguagePhase", "candidates", "crossover", "phase_of"]


class LanguagePhase(Enum):
    """What a language model computes."""

    PROMPT = "whole prompt"
    TURN = "next turn"
    STEP = "step of an answer"


_STRAIGHT = {
    LanguagePhase.PROMPT: (Way.KEYS, Way.QUERIES, Way.GATHER_KV),
    LanguagePhase.TURN: (Way.KEYS, Way.QUERIES, Way.GATHER_KV),
    LanguagePhase.STEP: (Way.OUTPUTS, Way.GATHER_KV),
}

_SCHEDULES = 4
"""Schedules of a whole prompt that are named, the fastest."""

_ALL_TIMED = 32
"""With more ranks only those schedules are timed that were made for causal masks or send least: all take minutes."""


def phase_of(turn: LayerTurn) -> LanguagePhase:
    """Which phase of a language model it is."""
    if turn.new <= few_tokens(turn.ranks):
        return LanguagePhase.STEP
    return LanguagePhase.TURN if turn.past else LanguagePhase.PROMPT


def candidates(
    turn: LayerTurn, network: Network, machine: Machine, effects: Effects = NO_EFFECTS, patience: float = math.inf
) -> tuple[StrategyForecast, ...]:
    """All strategies for a turn, those that a parallel model can do first, by predicted time.

    Of those within the simulation's error of the fastest (:data:`~tokenring_xdit.planning.options.TIE`) the one that
    sends least comes first: it is what to take. In layers with a window it is that of which less travels, as a model
    does there. Over more than 32 ranks only those schedules are timed that were made for causal masks or send least, by
    cutting heads; over more than :data:`~tokenring_xdit.planning.many_ranks.MANY_RANKS` times are lower bounds.

    Args:
        turn: What is computed.
        network: Rank ``r`` is at its ``r``-th host.
        machine: Speeds of the ranks.
        effects: What else happens.
        patience: Seconds after which no further schedules of a whole prompt are timed.
    """
    phase = phase_of(turn)
    found = _forecasts(turn, _STRAIGHT[phase], network, machine, effects)
    if phase is LanguagePhase.PROMPT and turn.window is None and turn.ranks <= MANY_RANKS:
        found += _schedules(turn, network, machine, effects, patience)
    if turn.window is not None:
        return tuple(sorted(found, key=lambda candidate: (not candidate.ours, candidate.sent, candidate.seconds)))
    fastest = min(candidate.seconds for candidate in found if candidate.ours)
    return tuple(sorted(found, key=lambda candidate: _order(candidate, fastest)))


def _forecasts(
    turn: LayerTurn, ways: tuple[Way, ...], network: Network, machine: Machine, effects: Effects
) -> list[StrategyForecast]:
    if turn.ranks > MANY_RANKS:
        return bounds(turn, ways, network, machine)
    forecasts = []
    for way in ways:
        simulation = run(way.value, turn.programs(way), network, machine, effects)
        sent, ours = max(simulation.sent), way is not Way.GATHER_KV
        forecasts.append(StrategyForecast(way.value, simulation.makespan, simulation.exposed, sent, ours))
    return forecasts


def _order(candidate: StrategyForecast, fastest: float) -> tuple[bool, bool, float, float]:
    """Ours first; of these as fast as any, to within what a simulation can tell, that which sends least."""
    tied = candidate.seconds <= fastest * (1 + TIE)
    return not candidate.ours, not tied, candidate.sent if tied else 0.0, candidate.seconds


def _schedules(
    turn: LayerTurn, network: Network, machine: Machine, effects: Effects, patience: float
) -> list[StrategyForecast]:
    problem = Problem.even(
        turn.ranks,
        turn.new,
        turn.heads,
        turn.head_dim,
        kv_heads=turn.kv_heads,
        batch=turn.batch,
        element_bytes=turn.element_bytes,
    )
    few = turn.ranks > _ALL_TIMED
    options = best_schedules(problem, network, machine, effects, mask=Mask.CAUSAL, patience=patience, few=few)
    return [
        StrategyForecast(option.dims.sequence_schedule, option.seconds or 0.0, option.exposed or 0.0, option.sent or 0)
        for option in options[:_SCHEDULES]
    ]


def crossover(turn: LayerTurn, network: Network, machine: Machine, effects: Effects = NO_EFFECTS) -> int | None:
    """How many of the tokens have to be new for keys to be the better thing to send, the whole length given.

    Returns:
        The number; ``None`` where queries are better however many are new.
    """
    tokens, few = turn.past + turn.new, few_tokens(turn.ranks)

    def keys_win(new: int) -> bool:
        each = replace(turn, past=tokens - new, new=new)
        keys, queries, *_ = _forecasts(each, (Way.KEYS, Way.QUERIES), network, machine, effects)
        if abs(keys.seconds - queries.seconds) > TIE * min(keys.seconds, queries.seconds):
            return keys.seconds < queries.seconds
        return keys.sent < queries.sent

    low, high = few, tokens - 1
    if low >= high or not keys_win(high):
        return None
    near, off = tokens * turn.kv_heads // turn.heads, tokens // 512  # where bytes are as many, and often times as well
    for middle in (near - off, near + off) if turn.ranks > _ALL_TIMED else ():
        if low < middle < high:
            low, high = (low, middle) if keys_win(middle) else (middle, high)
    while high - low > max(1, tokens // 256):
        middle = (low + high) // 2
        low, high = (low, middle) if keys_win(middle) else (middle, high)
    return high
