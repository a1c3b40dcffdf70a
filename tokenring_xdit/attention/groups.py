"""Process groups with their channels: one communicator for each direction of traffic."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention.agreement import (
    CallSpec,
    Layout,
    agree,
    digest,
    refuse_other_calls,
    same_lengths_where_needed,
)
from tokenring_xdit.attention.auto import AutoSchedule
from tokenring_xdit.attention.buffers import BufferPool
from tokenring_xdit.attention.bulletin import Notice
from tokenring_xdit.attention.control import Unanswered, swap, tell_all
from tokenring_xdit.attention.waits import DIRECT, Broken, Ended, Waiter
from tokenring_xdit.attention.watch import Problem, Watch
from tokenring_xdit.errors import AgreementError, CommunicationError, ConfigurationError, TokenRingError
from tokenring_xdit.liveness import limit, seconds_from
from tokenring_xdit.schedule import Channel

__all__ = [
    "AGREEMENT_TIMEOUT_VARIABLE",
    "RingGroup",
    "check_environment",
    "clear_buffers",
    "failing_together",
    "group_of",
    "in_words",
]

log = logging.getLogger(__name__)

AGREEMENT_TIMEOUT_VARIABLE = "TOKENRING_AGREEMENT_TIMEOUT"
"""Environment variable: seconds to wait for a rank that runs but does not come, once ranks have agreed on a call."""

_REMEMBERED = 1024
"""Agreements that a group remembers; prompts of a serving process bring a new mask each."""

_DEFAULT_AGREEMENT_TIMEOUT = 120.0

_DEFAULT_GROUP_TIMEOUT = timedelta(minutes=30)

_TAG_STEP = 5040
"""A multiple of 1 to 10: gloo on several interfaces takes the same one of them for all such tags."""

_TAGS = 1009
"""Calls that are told apart by the tags of their transfers; after so many the tags come again."""

_UNUSED_TAG = _TAG_STEP * (_TAGS + 1)

_PROBE_TAG = _TAG_STEP * (_TAGS + 2)

_PROBE_INTERVAL = 0.5

_PATIENCE = 3.0
"""Seconds in which a rank whose connection broke is found to be gone, or others tell what happened."""

_TELLING = 1.0
"""Seconds for the other ranks to be told of a failure before it is raised."""

_groups: dict[str, RingGroup] = {}

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Report:
    """What a rank is about to do, for ranks that have found out that they differ."""

    call: int
    what: str
    content: Any
    why_not: str | None


class RingGroup:
    """What this package keeps for a process group.

    Attributes:
        rank: This process's rank in the group.
        world_size: Number of ranks in the group.
        peers: Global rank of each rank of the group.
        pool: Message buffers.
        bytes_sent: Payload bytes that this rank has handed to sends so far.
        receives_early: Whether a receive may be posted before its turn, which spares its sender a round
            trip: so on gloo, where transfers are independent. NCCL works off a channel in order.
        call: Number of this rank's call, counted from 1; what ranks send each other is told apart by it.
        waiting: What the caller waits for, a new tuple for each wait; ``None`` for nothing.
        key: Name of the group, the same on all ranks.
        members: The same as ``peers``.
        agreeing: Whether the ranks compare their calls.
        needs_all: Whether every rank has to come to what is waited for.
    """

    section = False

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        self.peers = dist.get_process_group_ranks(group)
        self.members = tuple(self.peers)
        self.names = [_name(rank, peer) for rank, peer in enumerate(self.peers)]
        self.bytes_sent = 0
        self.call = 0
        self.waiting: tuple[Any, ...] | None = None
        self.agreeing = self.needs_all = False
        self.receives_early = False
        self.guard: Any = None  # what hosts.py keeps for this group
        self._waiter = Waiter()
        self.pool = BufferPool(self.wait_for)
        self._batches = False  # whether transfers that are posted together have one work
        self._device = torch.device("cpu")  # of what is sent
        self._channels: dict[Channel, tuple[dist.ProcessGroup, dist.ProcessGroup]] = {}  # to higher ranks, to lower
        self._control: dist.ProcessGroup | None = None
        self._agreed: dict[tuple[Hashable, CallSpec], Layout] = {}
        self._settled = False
        self._broken: str | None = None
        self._problem: Problem | None = None
        self._auto: AutoSchedule | None = None
        self._watch: Watch | None = None
        options = group._get_backend(group._device_types[0]).options
        self._own_timeout: timedelta | None = getattr(options, "_timeout", None)
        self.key = str(group.group_name)
        if self.world_size > 1:
            self._watch = Watch.current()
            self.key = self._watch.new_key(group.group_name)
            self._watch.join(self)

    @property
    def auto(self) -> AutoSchedule:
        """The schedules that were chosen for this group."""
        if self._auto is None:
            self._auto = AutoSchedule(self._swap_within_call, self.peers, self.rank)
        return self._auto

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> RingGroup:
        """The one for ``group``, or for the default group.

        Raises:
            ConfigurationError: torch.distributed is not initialised, ``group`` is no group, or this rank is not in it.
        """
        if not dist.is_initialized():
            raise ConfigurationError(
                "attention over several ranks needs torch.distributed: call "
                "torch.distributed.init_process_group() first, or start the program with torchrun"
            )
        resolved = dist.group.WORLD if group is None else group
        if not isinstance(resolved, dist.ProcessGroup):
            # A group that this rank is not in is a number for torch.
            outside = resolved is dist.GroupMember.NON_GROUP_MEMBER
            raise ConfigurationError(
                "this rank does not belong to the process group it was given"
                if outside
                else f"a group has to be a torch.distributed.ProcessGroup or None, got a {type(group).__name__}"
            )
        if dist.get_rank(resolved) < 0:
            raise ConfigurationError("this rank does not belong to the process group it was given")
        known = _groups.get(resolved.group_name)
        if known is None or known._group is not resolved:  # the name comes again after a re-initialisation
            known = _groups[resolved.group_name] = cls(resolved)
        return known

    def begin(self) -> None:
        """Count a call of this rank, whatever becomes of it.

        Raises:
            CommunicationError: An earlier call on this group failed.
        """
        if self._problem is not None and self._broken is None:  # found between two calls
            self.fail(self._problem.sentence)
        if self._broken is not None:
            raise CommunicationError(f"an earlier attention call on this process group failed: {self._broken}")
        self.call += 1

    def settle_layout(
        self, report: CallSpec | str, channels: tuple[Channel, ...], device: torch.device, key: Hashable | None
    ) -> Layout:
        """Agree with the other ranks on a call, and open the channels it needs.

        Args:
            report: This rank's call, or why it refuses.
            channels: Channels of the schedule, the same on all ranks.
            device: Where the tensors are.
            key: What the caller knows to be the same on all ranks and to change when any rank's
                shapes do: a call seen with it before is not agreed on again. ``None`` agrees on
                every call, which costs one small collective on the CPU.

        Raises:
            AgreementError: The same on every rank, when their calls do not fit together.
            CommunicationError: A rank did not come, or failed.
        """
        if isinstance(report, CallSpec) and key is not None:
            known = self._agreed.get((key, report))
            if known and not (self._watch is not None and self._watch.knows_refusal(self)):
                return known
        elif isinstance(report, str) and self._agreed:
            # Ranks that call with a key would not listen.
            sentence = f"attention was refused: rank {self.names[self.rank]}: {report}"
            self._publish(sentence, call=self.call, refused=True)
        layout = self._agree(report, key)
        assert isinstance(report, CallSpec)  # a refusal has raised on all ranks
        self.open(channels, device)
        self._settled = True
        if key is not None:
            self._agreed[key, report] = layout
            if len(self._agreed) > _REMEMBERED:  # the oldest, which is the same on all ranks
                del self._agreed[next(iter(self._agreed))]
        return layout

    def exchange(self, value: Any, what: str) -> list[Any]:
        """A picklable value of every rank, for what all ranks do together beside attention; it counts as a call.

        Raises:
            AgreementError: Another rank is at another call, or its value cannot be sent; the same on every rank.
            CommunicationError: A rank did not come, or failed.
        """
        self.begin()
        content, why_not, cause = b"", None, None
        try:
            content = pickle.dumps(value)
        except Exception as error:
            why_not, cause = in_words(error), error
        alike = 0 if why_not else digest(what)
        found = self._round(what, alike, (len(content), 0, 0), None, why_not)
        if isinstance(found[0], _Report):
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
            result: _Result = self._waiter.call(lambda: job(control), self._bound().total_seconds())
        except (RuntimeError, Ended) as error:
            raise self.failure(doing, error) from error
        self.waiting = None
        return result

    def post(
        self, channel: Channel, recvs: Sequence[tuple[Tensor, int]], sends: Sequence[tuple[Tensor, int]]
    ) -> list[dist.Work]:
        """Post transfers on a channel of an agreed call, receives first, and wait for none.

        Args:
            channel: The channel.
            recvs: Memory, and the rank of this group that fills it.
            sends: Contiguous tensors, and the rank of this group that gets them.

        Returns:
            What to wait for, for each receive and then for each send.
        """
        up, down = self._channels[channel]
        self.bytes_sent += sum(tensor.nbytes for tensor, _ in sends)
        if not (recvs or sends):
            return []
        # What batch_isend_irecv comes to, without its checks, which cost more than a short message.
        tag = self.call % _TAGS * _TAG_STEP  # a message is never taken for one of another call; NCCL has no tags
        try:
            if self._batches:
                up._start_coalescing(self._device)
            works = [
                *((up if peer < self.rank else down).recv([tensor], peer, tag) for tensor, peer in recvs),
                *((up if peer > self.rank else down).send([tensor], peer, tag) for tensor, peer in sends),
            ]
            return [up._end_coalescing(self._device)] * len(works) if self._batches else works
        except RuntimeError as error:
            raise Broken(str(error)) from error

    def wait_for(self, works: Sequence[dist.Work], size: int) -> None:
        """Wait for transfers of at most so many bytes each.

        Raises:
            Broken: One failed, or there is no end to wait for.
        """
        self.waiting = (works,)
        try:
            if size <= DIRECT or self._batches:  # on a GPU the device waits, not the host
                for work in works:
                    work.wait()
            else:
                self._waiter.call(lambda: [work.wait() for work in works], self._bound().total_seconds())
        except RuntimeError as error:
            raise Broken(str(error)) from error
        self.waiting = None

    # -- the end of a group ------------------------------------------------------------------------------------

    def fail(self, reason: str, *, tell: bool = True, refused: bool = False) -> None:
        """Give this group up: close its channels, refuse further calls, and tell the other ranks why.

        On NCCL the communicators are aborted.

        Args:
            reason: A sentence that names the rank at fault.
            tell: Whether the others do not know.
            refused: Whether a rank refused its call, and nothing broke.
        """
        if self._broken is None:
            self._broken = reason
            if tell:
                self._publish(reason, refused=refused)
        self.waiting, self.agreeing, self.needs_all = None, False, False
        self._waiter.end()
        self.break_off()
        for group in self._opened():
            nccl = dist.get_backend(group) == "nccl"
            try:
                # Destroying an NCCL group flushes it, which a transfer without a partner would block.
                dist.distributed_c10d._abort_process_group(group) if nccl else dist.destroy_process_group(group)
            except (RuntimeError, ValueError):  # closing what is already broken
                log.debug("could not close a channel of rank %d", self.rank, exc_info=True)
        self._channels.clear()
        self.pool = BufferPool(self.wait_for)  # the other one has buffers that would be waited for

    def failure(self, doing: str, error: BaseException, missing: Sequence[int] = ()) -> TokenRingError:
        """Give this group up after a wait that failed, and return what to raise: it names the rank at fault.

        Args:
            doing: What this rank did, as in ``waited for block Q[1]``.
            error: What torch said, or :class:`Ended`.
            missing: Ranks of the group that did not come, where that is known.
        """
        text = str(error)
        late = isinstance(error, Ended) or "timed out" in text.lower()
        problem = self._problem
        if problem is None and self._watch is not None:
            problem = self._watch.problem_of(self, patience=0.0 if late else _PATIENCE)
        mine = f"rank {self.names[self.rank]} {doing}"
        if problem is not None:
            message = f"{problem.sentence}: {mine}"
        elif missing and late:
            one = len(missing) == 1
            who = ", ".join(self._described(rank) for rank in missing)
            message = (
                f"rank {who} did not come within {self._bound().total_seconds():g} s, though "
                f"{'its process runs' if one else 'their processes run'}: {mine}. {AGREEMENT_TIMEOUT_VARIABLE} gives "
                f"ranks that are only slow more time"
            )
        elif missing:
            who = ", ".join(self._described(rank) for rank in missing)
            message = f"the connection to rank {who} broke, and nothing was heard of why: {mine}"
        elif late:
            message = f"{mine} for {self._bound().total_seconds():g} s, while all ranks run"
        else:
            message = f"{mine}, and the connection broke"
        refused = problem is not None and problem.refused
        self.fail(problem.sentence if problem is not None else message, refused=refused)
        if refused:
            return AgreementError(f"{message}, so this group was given up")
        said = f". torch.distributed says: {text.partition('. This is typically')[0]}" if text else ""
        return CommunicationError(message + said)

    def end(self, problem: Problem) -> None:
        """End the wait that is under way, from the thread of the watch."""
        self._problem = self._problem or problem
        self._waiter.end()
        self.break_off()
        for group in self._opened():
            if dist.get_backend(group) == "nccl":  # not run here
                with suppress(RuntimeError, ValueError):
                    dist.distributed_c10d._abort_process_group(group)

    def break_off(self) -> None:
        """Make every transfer that is under way on gloo fail, here and at the peers, for threads that wait for one.

        Closing a group does not end such a wait, and the wait keeps the group from being closed. What does is that a
        receive times out: gloo then closes all connections of its group. No peer ever sends with this tag. It does not
        end the wait for a message that is on the way in part (``waits.py``).
        """
        groups = [] if self._batches else self._opened()
        for group in [*groups, *([self._control] if self._control is not None else [])]:
            for peer in range(self.world_size):
                if peer != self.rank:
                    with suppress(RuntimeError, ValueError):  # the timeout, or what is broken already
                        group.recv([torch.empty(1)], peer, _UNUSED_TAG).wait(timedelta(milliseconds=1))

    # -- making groups -----------------------------------------------------------------------------------------

    def control_group(self) -> dist.ProcessGroup | None:
        """A group on gloo for what is not attention, made by all ranks together; ``None`` for a single rank.

        Raises:
            AgreementError: The ranks could not make it; the same on all of them.
            CommunicationError: A rank did not come, or failed.
        """
        if self.world_size > 1 and self._control is None:
            self._arrive()
            self._control = self._make("the first connections", lambda: self._new_group("control", backend="gloo"))
        return self._control

    def open(self, channels: tuple[Channel, ...], device: torch.device) -> None:
        """Create channels on all ranks together, as a schedule may give a rank nothing to do on one.

        On gloo a channel has a connection for each way between two ranks. A receive is announced to the sender, who
        waits for that; on a connection that carries data to him too the announcement would queue behind those, and
        what goes both ways would go one way after the other.

        Raises:
            CommunicationError: A rank did not come, or failed.
        """
        for channel in channels:
            if channel not in self._channels:
                self._make(f"channel {channel.value}", partial(self._open, channel, device))

    def _open(self, channel: Channel, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        up = down = self._new_group(channel.value)
        self._device, self._batches = device, up._get_backend(device).supports_coalescing
        self.receives_early = not self._batches
        if self.receives_early:
            down = self._new_group(f"{channel.value}-down")
        # NCCL builds a communicator at the first call, for which all ranks have to come.
        dist.barrier(up, device_ids=[device.index] if device.type == "cuda" else None)
        self._channels[channel] = up, down

    def _make(self, what: str, job: Callable[[], _Result]) -> _Result:
        """Do what blocks until all ranks have come, in a thread, which is left behind where they do not."""
        if self.world_size == 1:
            return job()
        doing = f"opened {what} with the other ranks"
        self.waiting, self.needs_all = (doing,), True
        try:
            result: _Result = self._waiter.call(job, self._bound().total_seconds())
        except (RuntimeError, Ended) as error:
            raise self.failure(doing, error) from error
        self.waiting, self.needs_all = None, False
        return result

    def _arrive(self) -> None:
        """Wait for all ranks to come to their first call; only then begin what cannot be ended."""
        assert self._watch is not None
        counts = len(dist.distributed_c10d._world.pg_names), dist.distributed_c10d._world.group_count
        bulletin, end, probed = self._watch.bulletin, time.monotonic() + self._bound().total_seconds(), time.monotonic()
        keys = {peer: f"group/{self.key}/{peer}" for peer in range(self.world_size) if peer != self.rank}
        bulletin.put(f"group/{self.key}/{self.rank}", counts)
        bulletin.want(keys.values())
        doing = f"waited for the other ranks to come to call {self.call}, their first"
        self.waiting, self.needs_all = (doing,), True
        bulletin.hurry(1)
        try:
            while missing := [peer for peer, key in keys.items() if key not in bulletin.found]:
                time.sleep(0.002)
                now = time.monotonic()
                if self._problem is not None or now >= end:
                    raise self.failure(doing, Ended(), missing)
                if now - probed >= _PROBE_INTERVAL:
                    probed = now
                    self._probe([peer for peer in missing if self._watch.where(self.peers[peer]) is None], doing)
        finally:
            bulletin.hurry(-1)
        self.waiting, self.needs_all = None, False
        everyone = {**{peer: tuple(bulletin.found[key]) for peer, key in keys.items()}, self.rank: counts}
        self._refuse_unequal_histories([everyone[peer] for peer in range(self.world_size)])

    def _probe(self, unknown: Sequence[int], doing: str) -> None:
        """Find ranks that ended before they came, of which nothing is known but the caller's group.

        A message to a rank fails at once where gloo has seen its connection close; where not, nobody asks for it.
        """
        if torch.device("cpu") not in self._group._device_types:
            return
        backend: Any = self._group._get_backend(torch.device("cpu"))
        for peer in unknown if isinstance(backend, dist.ProcessGroupGloo) else ():
            try:
                cast(Any, backend).send([torch.empty(1)], peer, _PROBE_TAG)
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

    def _opened(self) -> list[dist.ProcessGroup]:
        """The groups of all channels, each once."""
        return list({id(group): group for ways in [*self._channels.values()] for group in ways}.values())

    def _new_group(self, purpose: str, *, backend: str | None = None) -> dist.ProcessGroup:
        gloo = backend == "gloo" or "gloo" in str(dist.get_backend(self._group))
        group: dist.ProcessGroup = dist.new_group(
            self.peers,
            backend=backend,
            # Of every wait for it. On NCCL torch ends the process where one is over.
            timeout=min(self._own_timeout or _DEFAULT_GROUP_TIMEOUT, _agreement_timeout())
            if gloo
            else self._own_timeout,
            # Other ranks of the world need not call attention at the same time, or at all.
            use_local_synchronization=self.world_size != dist.get_world_size(),
            group_desc=f"tokenring-{purpose}",
            sort_ranks=False,
        )
        return group

    # -- rounds ------------------------------------------------------------------------------------------------

    def _agree(self, report: CallSpec | str, key: Hashable | None) -> Layout:
        if self.world_size == 1:
            return agree([report])
        hint = (
            "; where a layout_key is known a rank does not compare its call: did the shapes change on some ranks only?"
        )
        self.agreeing = True
        if isinstance(report, CallSpec):
            facts = report.q_length, report.kv_length, int(report.ragged)
            found = self._round("attention", digest(report), facts, report, None, hint if key is not None else "")
        else:
            found = self._round("attention", 0, (0, 0, 0), report, report)
        self.agreeing = False
        if isinstance(found[0], _Report):
            return agree([each.content for each in found], self.names)
        assert isinstance(report, CallSpec)
        q_lengths, kv_lengths, ragged = zip(*found, strict=True)
        if not same_lengths_where_needed(report, q_lengths, kv_lengths):
            each = zip(q_lengths, kv_lengths, strict=True)
            return agree([replace(report, q_length=queries, kv_length=keys) for queries, keys in each], self.names)
        return Layout(report, q_lengths, kv_lengths, any(ragged))

    def _round(
        self,
        what: str,
        alike: int,
        facts: tuple[int, int, int],
        content: Any,
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
            return [_Report(self.call, what, content, why_not)] if why_not else [facts]
        doing = f"waited for the other ranks to come to call {self.call}, {what}{hint if self._settled else ''}"
        self.waiting = (doing,)
        try:
            heads = tell_all((self.call, alike, *facts), control, self._bound())
            self.waiting = None
            calls, alikes = {head[0] for head in heads}, {head[1] for head in heads}
        except Unanswered as error:
            raise self.failure(doing, error, error.missing) from error
        if len(calls) == len(alikes) == 1 and alike:
            return [tuple(head[2:]) for head in heads]
        reports = self._swap_unsized(_Report(self.call, what, content, why_not), doing)
        self.call = max(calls)  # from here on they are together again
        self.agreeing = False
        refuse_other_calls([(r.call, r.what, r.why_not) for r in reports], self.names)
        return reports

    def _swap_within_call(self, value: Any) -> list[Any]:
        """A value of every rank, at a point of a call to which all of them come."""
        if self.world_size == 1:
            return [value]
        return self._swap_unsized(value, f"waited for the other ranks in call {self.call}")

    def _swap_unsized(self, value: Any, doing: str) -> list[Any]:
        content = pickle.dumps(value)
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
            return [pickle.loads(content)]
        self.waiting = (doing,)
        try:
            found: list[Any] = self._waiter.call(
                lambda: swap(content, sizes, control, self._bound()), self._bound().total_seconds()
            )
        except Unanswered as error:
            raise self.failure(doing, error, error.missing) from error
        except Ended as error:
            raise self.failure(doing, error) from error
        self.waiting = None
        return found

    # -- limits and names --------------------------------------------------------------------------------------

    def _bound(self) -> timedelta:
        """How long to wait for a rank that runs: at first for slow starters as well."""
        own = self._own_timeout or _DEFAULT_GROUP_TIMEOUT
        return min(own, _agreement_timeout()) if self._settled else own

    def _publish(self, sentence: str, *, call: int | None = None, refused: bool = False) -> None:
        if self._watch is not None:
            notice = Notice(self.peers[self.rank], sentence, self.key, self.members, call, refused=refused)
            self._watch.bulletin.publish(notice)
            self._watch.bulletin.flush(_TELLING)

    def _described(self, peer: int) -> str:
        where = self._watch.where(self.peers[peer]) if self._watch is not None else None
        return f"{self.names[peer]} ({where})" if where else self.names[peer]


def group_of(group: dist.ProcessGroup | None) -> RingGroup:
    """:meth:`RingGroup.of`; a rank that has no group to call on tells so to all groups that wait for it.

    Raises:
        ConfigurationError: As there.
    """
    try:
        return RingGroup.of(group)
    except Exception as error:
        watch = Watch.known()
        if watch is not None:
            sentence = f"rank {watch.rank} called attention on no group of its own: {in_words(error)}"
            watch.give_up(sentence, range(dist.get_world_size()))
        raise


@contextmanager
def failing_together(group: RingGroup, doing: str) -> Iterator[None]:
    """Tell the other ranks of what only this one raises, between the calls that raise on all ranks alike."""
    try:
        yield
    except TokenRingError:
        raise  # told already
    except BaseException as error:
        if group.world_size > 1:
            group.fail(f"rank {group.names[group.rank]} failed {doing}: {in_words(error)}")
        raise


def _name(rank: int, peer: int) -> str:
    """What to call a rank of a group."""
    return str(peer) if rank == peer else f"{peer} (rank {rank} of its group)"


def in_words(error: BaseException) -> str:
    """An error in a line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a broken __str__ of the caller's
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def clear_buffers() -> None:
    """Let go of the message buffers that all groups of this process keep; the next calls allocate their own."""
    for group in _groups.values():
        group.pool.clear()


def check_environment() -> None:
    """Look at the limits that the environment sets.

    Raises:
        ConfigurationError: One is no positive number.
    """
    limit()
    seconds_from(AGREEMENT_TIMEOUT_VARIABLE, _DEFAULT_AGREEMENT_TIMEOUT)


def _agreement_timeout() -> timedelta:
    try:
        return timedelta(seconds=seconds_from(AGREEMENT_TIMEOUT_VARIABLE, _DEFAULT_AGREEMENT_TIMEOUT))
    except ConfigurationError:  # the call says so, to all ranks
        return timedelta(seconds=_DEFAULT_AGREEMENT_TIMEOUT)
