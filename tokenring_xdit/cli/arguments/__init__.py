"""What can be said to each command, a module a command: light, so that ``--help`` answers at once.

A parser names what carries its command out as ``action``, ``MODULE:FUNCTION`` in :mod:`tokenring_xdit.cli`, which is
imported when the command line has been read. These modules import no torch; those of the actions may, at their top.
"""

__all__ = ["COMMANDS"]

COMMANDS = (
    *("run", "serve", "compare", "ask", "score", "fit", "config", "launch"),
    *("schedule", "plan", "topology", "probe", "network", "bench", "doctor"),
)
"""The modules in the order of ``--help``; ``completion``, which needs the whole parser, is the last."""
