"""Plans of cuts: diffusers' own in the words of the records, and the modules of a model that a plan names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Plan, Split

__all__ = ["named", "plan_of"]


def plan_of(kind: Any, family: DiffusersFamily) -> Plan:
    """Where a transformer is cut: as the record says, or else as diffusers does, and what a ControlNet hands to it.

    Args:
        kind: Its class.
        family: What is known of it.

    Raises:
        UnsupportedError: Neither says so.
    """
    plan = _own_or_theirs(kind, family)
    control: dict[str | int, Split | tuple[Split, ...]] = {
        name: split for name, split in family.control.items() if split is not None
    }
    given = plan.get("", {})
    assert not isinstance(given, Gather)
    return {**plan, "": {**given, **control}} if control else plan


def _own_or_theirs(kind: Any, family: DiffusersFamily) -> Plan:
    if family.plan is not None:
        return family.plan
    theirs = getattr(kind, "_cp_plan", None)
    if theirs is None:
        raise UnsupportedError(
            f"the {kind.__name__} of the installed diffusers has no plan of how to cut it any more: use diffusers "
            f"{family.since}, or host='xfuser'"
        )
    return {module: _entry(module, entry) for module, entry in theirs.items()}


def named(model: Any, pattern: str) -> Iterator[tuple[str, Any]]:
    """The modules that a pattern names, ``*`` being each of a list; none where the model has no such module."""
    found = [("", model)]
    for part in pattern.split(".") if pattern else ():
        found = [
            (f"{name}.{key}".removeprefix("."), child)
            for name, module in found
            for key, child in module.named_children()
            if part in ("*", key)
        ]
    yield from found


def _entry(module: str, entry: Any) -> Mapping[str | int, Split | tuple[Split, ...]] | Gather:
    """One module's cuts, or what is gathered of it."""
    if isinstance(entry, Mapping):
        return {
            name: tuple(map(_split, value)) if isinstance(value, (list, tuple)) else _split(value)
            for name, value in entry.items()
        }
    if isinstance(entry, (list, tuple)):
        if len(entry) != 1:
            raise UnsupportedError(
                f"diffusers' plan gathers {len(entry)} outputs of {module}, which was not compared: use host='xfuser'"
            )
        (entry,) = entry
    return Gather(entry.gather_dim)


def _split(theirs: Any) -> Split:
    return Split(theirs.split_dim, theirs.expected_dims)
