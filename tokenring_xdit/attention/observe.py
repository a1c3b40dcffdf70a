"""Events of a call that the executor reports while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tokenring_xdit.attention.buffers import Handle
from tokenring_xdit.attention.transport.base import Parcel
from tokenring_xdit.schedule import Activity
from tokenring_xdit.schedule.lower.program import Post, RankProgram

__all__ = ["Observer"]


class Observer(Protocol):
    """Gets the events of a call on one rank."""

    def begins(self, name: str, program: RankProgram) -> None:
        """A call begins, before its first transfer."""

    def doing(self, activity: Activity, what: object) -> AbstractContextManager[None]:
        """Stands around a computation; ``what`` says as text of what."""

    def posting(
        self,
        post: Post,
        hand_over: Callable[[Sequence[Parcel], Sequence[Parcel]], Sequence[Handle]],
        recvs: Sequence[Parcel],
        sends: Sequence[Parcel],
    ) -> Sequence[Handle]:
        """Has transfers posted, receives first; may give others in the place of their handles."""

    def failed(self) -> None:
        """The call has failed: nothing of it is waited for any more."""
