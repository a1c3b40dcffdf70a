"""What the ranks of a group do together beside attention: they come to the same call, compare it, and make groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch.distributed as dist

from tokenring_xdit.attention.agreement import CallSpec, digest, refuse_other_calls
from tokenring_xdit.attention.connections import try_connection
from tokenring_xdit.attention.control import Unanswered, swap, tell_all
from tokenring_xdit.attention.member import (
    DEFAULT_GROUP_TIMEOUT,
    Member,
    agreement_timeout,
    in_words,
)
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE
from tokenring_xdit.attention.waits import Ended
from tokenring_xdit.compat.torch import nccl_options
from tokenring_xdit.compat.torch import new_group as make_group
from tokenring_xdit.errors import AgreementError, CommunicationError
from tokenring_xdit.plain import from_bytes, to_bytes

__all__ = ["Report", "Rounds"]

_PROBE_INTERVAL = 0.5
"""Seconds between two looks at whether a rank that nothing is known of is still connected."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Report:
    """What a rank is about to do, for ranks that have found out that they differ.

    Attributes:
        call: Number of its call.
        what: The call, in words.
        content: The attention call itself; ``None`` of one that was refused, and of other calls.
        why_not: Why it refuses the call, if it does.
    """

    call: int
    what: str
    content: CallSpec | None
    why_not: str | None


class Rounds(Member):
    """A rank, and a group on gloo for what is not attention."""

    def exchange(self, value: Any, what: str) -> list[Any]:
        """A value of every rank, for what all ranks do together beside attention; it counts as a call.

        Args:
            value: Plain data; see :mod:`tokenring_xdit.plain`.
            what: What is exchanged.

        Raises:
            AgreementError: Another rank is at another call, or its value cannot be sent; the same on every rank.
            CommunicationError: A rank did not come, or failed.
        """
        self.begin()
        content, why_not, cause = b"", None, None
        try:
            content = to_bytes(value)
        except Exception as error:
            why_not, cause = in_words(error), error
        alike = 0 if why_not else digest(what)
        found = self._round(what, alike, (len(content), 0, 0), None, why_not)
        if isinstance(found[0], Report):
            problems = [f"rank {name}: {r.why_not}" for name, r in zip(self.names, found, strict=True) if r.why_not]
            raise AgreementError(f"{what} was refused: " + "; ".join(problems)) from cause
        self._settled = True
        return self._swap(content, [size for size, _, _ in found], what)

    def do_together(self, what: str, job: Callable[[dist.ProcessGroup], _Result]) -> _Result:
        """Send and receive on the control group, on all ranks at once; it counts as a call.

        Raises:
            AgreementError: Another rank is at another call; the same on every rank.
            CommunicationError: A rank did not come, or failed.
        """
        self.begin()
        self._round(what, digest(what), (0, 0, 0), None, None)
        control, doing = self.control_group(), f"waited for the other ranks in {what}"
        assert control is not None
        self.waiting = (doing,)
        try:
            result: _Result = self._waiter.call(lambda: job(control), self.patience())
        except (RuntimeError, Ended) as error:
            raise self.failure(doing, error) from error
        self.waiting = None
        return result

    def control_group(self) -> dist.ProcessGroup | None:
        """A group on gloo for what is not attention, made by all ranks together; ``None`` for a single rank.

        Raises:
            AgreementError: The ranks could not make it; the same on all of them.
            CommunicationError: A rank did not come, or failed.
        """
        if self.world_size > 1 and self._control is None:
            self._arrive()
            self._control = self.make("the first connections", lambda: self.new_group("control", backend="gloo"))
        return self._control

    def _round(
        self,
        what: str,
        alike: int,
        facts: tuple[int, int, int],
        content: CallSpec | None,
        why_not: str | None,
        hint: str = "",
    ) -> list[Any]:
        """Compare calls with all ranks: their ``facts`` where they are alike, a report of each where they are not.

        Args:
            what: The call, in words.
            alike: What has to be the same on all ranks, positive; 0 from a rank that refuses.
            facts: What may differ.
            content: The call itself, for a report.
            why_not: Why this rank refuses.
            hint: What a rank that does not come may be about.

        Raises:
            AgreementError: The ranks are at different calls.
            CommunicationError: A rank did not come, or failed.
        """
        control = self.control_group()
        if control is None:
            return [Report(self.call, what, content, why_not)] if why_not else [facts]
        doing = f"waited for the other ranks to reach call {self.call}, {what}{hint if self._settled else ''}"
        self.waiting = (doing,)
        try:
            heads = tell_all((self.call, alike, *facts), control, self._bound())
            self.waiting = None
            calls, alikes = {head[0] for head in heads}, {head[1] for head in heads}
        except Unanswered as error:
            raise self.failure(doing, error, error.missing) from error
        if len(calls) == len(alikes) == 1 and alike:
            return [tuple(head[2:]) for head in heads]
        mine = (self.call, what, None if content is None else content.to_plain(), why_not)
        reports = [
            Report(call, name, None if spec is None else CallSpec.from_plain(spec), reason)
            for call, name, spec, reason in self._swap_unsized(mine, doing)
        ]
        self.call = max(calls)  # from here on they are together again
        self.agreeing = False
        refuse_other_calls([(r.call, r.what, r.why_not) for r in reports], self.names)
        return reports

    def swap_within_call(self, value: Any) -> list[Any]:
        """A value, plain data, of every rank, at a point of a call to which all of them come."""
        if self.world_size == 1:
            return [value]
        return self._swap_unsized(value, f"waited for the other ranks in call {self.call}")

    def _swap_unsized(self, value: Any, doing: str) -> list[Any]:
        content = to_bytes(value)
        control = self.control_group()
        assert control is not None
        self.waiting = (doing,)
        try:
            sizes = [size for size, *_ in tell_all((len(content),), control, self._bound())]
        except Unanswered as error:
            raise self.failure(doing, error, error.missing) from error
        return self._swap(content, sizes, doing)

    def _swap(self, content: bytes, sizes: Sequence[int], doing: str) -> list[Any]:
        control = self.control_group()
        if control is None:
            return [from_bytes(content)]
        self.waiting = (doing,)
        try:
            found: list[Any] = self._waiter.call(lambda: swap(content, sizes, control, self._bound()), self.patience())
        except Unanswered as error:
            raise self.failure(doing, error, error.missing) from error
        except Ended as error:
            raise self.failure(doing, error) from error
        self.waiting = None
        return found

    def make(self, what: str, job: Callable[[], _Result]) -> _Result:
        """Do what blocks until all ranks have come, in a thread, which is left behind where they do not."""
        if self.world_size == 1:
            return job()
        doing = f"opened {what} with the other ranks"
        self.waiting, self.needs_all = (doing,), True
        try:
            result: _Result = self._waiter.call(job, self.patience())
        except (RuntimeError, Ended) as error:
            raise self.failure(doing, error) from error
        self.waiting, self.needs_all = None, False
        return result

    def reach(self, job: Callable[[], _Result]) -> _Result:
        """Open the memory of the other ranks, which blocks until all of them have come.

        Raises:
            CommunicationError: A rank did not come, or could not do it; the group is given up on all of them.
        """

        def tried() -> tuple[_Result | None, RuntimeError | None]:
            try:
                return job(), None
            except RuntimeError as error:
                return None, error

        found, error = self.make("the memory of the other ranks", tried)
        if error is not None:
            if self.lost():  # which is why
                raise self.failure("opened the memory of the other ranks", error) from error
            reason = f"rank {self.names[self.rank]} cannot reach the memory of the others: {in_words(error)}"
            self.fail(reason)
            raise CommunicationError(f"{reason}; {TRANSPORT_VARIABLE}=process-groups does without it") from error
        return cast(_Result, found)

    def _arrive(self) -> None:
        """Wait for all ranks to come to their first call; only then begin what cannot be ended."""
        assert self._watch is not None
        counts = len(dist.distributed_c10d._world.pg_names), dist.distributed_c10d._world.group_count
        bulletin, end, probed = self._watch.bulletin, time.monotonic() + self.patience(), time.monotonic()
        keys = {peer: f"group/{self.key}/{peer}" for peer in range(self.world_size) if peer != self.rank}
        bulletin.put(f"group/{self.key}/{self.rank}", counts)
        bulletin.want(keys.values())
        doing = f"waited for the other ranks to reach call {self.call}, their first"
        self.waiting, self.needs_all = (doing,), True
        bulletin.hurry(1)
        pause = 0.002
        try:
            while missing := [peer for peer, key in keys.items() if key not in bulletin.found]:
                time.sleep(pause)
                pause = min(1.2 * pause, 0.02)
                now = time.monotonic()
                if self._problem is not None or now >= end:
                    raise self.failure(doing, Ended(), missing)
                if now - probed >= _PROBE_INTERVAL:
                    probed = now
                    self._probe([peer for peer in missing if self._watch.where(self.peers[peer]) is None], doing)
        finally:
            bulletin.hurry(-1)
        self.waiting, self.needs_all = None, False
        everyone = {**{peer: bulletin.found[key] for peer, key in keys.items()}, self.rank: counts}
        self._refuse_unequal_histories([everyone[peer] for peer in range(self.world_size)])

    def _probe(self, unknown: Sequence[int], doing: str) -> None:
        """Find ranks that ended before they came, of which nothing is known but the caller's group.

        A message to a rank fails at once where gloo has seen its connection close; where not, nobody asks for it.
        """
        for peer in unknown:
            try:
                try_connection(self.process_group, peer)
            except RuntimeError as error:
                raise self.failure(doing, error, [peer]) from error

    def _refuse_unequal_histories(self, counts: Sequence[tuple[int, int]]) -> None:
        """Refuse groups whose members would name a new group differently, and so wait for each other for ever.

        torch 2.13 names a group of the whole world by the number of groups made so far, and a locally synchronised one
        by the number of groups that a rank belongs to (``distributed_c10d._hash_ranks_to_str``).
        """
        everyone = self.world_size == dist.get_world_size()
        made = [count[1] if everyone else count[0] for count in counts]
        if len(set(made)) == 1:
            return
        if everyone:
            message = (
                f"the ranks have made {made} process groups, and torch can only make another one after equally many"
            )
        else:
            message = (
                f"the ranks {self.peers} belong to {made} process groups, and torch can only make channels for a "
                "part of the world between ranks that belong to equally many"
            )
        self.fail(message, tell=False)  # they know
        raise AgreementError(
            f"{message}: create groups of equal shape on all ranks, or call attention on this group before creating "
            "the others"
        )

    def new_group(self, purpose: str, *, backend: str | None = None, ctas: int | None = None) -> dist.ProcessGroup:
        """A group of the same ranks, made by all of them together: of its backend, or another one."""
        names = dist.get_backend_config(self.process_group)  # by device, also where torch was left to choose them
        gloo = backend == "gloo" or ("gloo" in names and "nccl" not in names)
        options = nccl_options(ctas, self._own_timeout) if backend is None and "nccl" in names else None
        return make_group(
            self.peers,
            backend=backend,
            **({} if options is None else {"pg_options": options}),
            # Of every wait for it. On NCCL torch ends the process where one is over.
            timeout=min(self._own_timeout or DEFAULT_GROUP_TIMEOUT, agreement_timeout()) if gloo else self._own_timeout,
            # Other ranks of the world need not call attention at the same time, or at all.
            use_local_synchronization=self.world_size != dist.get_world_size(),
            group_desc=f"tokenring-{purpose}",
        )
