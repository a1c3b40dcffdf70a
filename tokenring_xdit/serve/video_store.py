"""Where videos are kept: a folder that grows no further than it may, and is gone with the server."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenring_xdit.errors import OutputError
from tokenring_xdit.pipelines.request import save

__all__ = ["KEPT_SECONDS", "StoredVideo", "VideoStore"]

KEPT_SECONDS = 24 * 60 * 60
"""Seconds for which a video is kept."""


@dataclass(frozen=True)
class StoredVideo:
    """A video that is kept.

    Attributes:
        path: Its file, an MP4.
        size: Its bytes.
        frames: How many it has.
        fps: Frames a second.
        expires: When it is removed, in seconds since 1970.
        until: The same on the clock of its store, which nobody sets.
    """

    path: Path
    size: int
    frames: int
    fps: int
    expires: float
    until: float


class VideoStore:
    """Files of videos by name; any thread may look, take and remove.

    Args:
        most: Bytes of all files together; the oldest ones make room.
        seconds: For which one is kept.
        clock: Seconds, whatever the machine takes the time to be.
    """

    def __init__(self, most: int, seconds: float = KEPT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._folder = tempfile.TemporaryDirectory(prefix="tokenring-videos-")
        self._kept: dict[str, StoredVideo] = {}  # the oldest one first
        self._changing = threading.Lock()

    def add(self, name: str, frames: Sequence[Any], fps: int) -> StoredVideo:
        """Write a video, and keep it, instead of the one that had its name.

        Raises:
            OutputError: It cannot be written, or is larger than all that may be kept.
        """
        self.remove(name)
        path = Path(self._folder.name) / f"{name}.mp4"
        save(list(frames), path, frames_per_second=fps)
        expires, until = (now() + self._seconds for now in (time.time, self._clock))
        video = StoredVideo(path, path.stat().st_size, len(frames), fps, expires, until)
        if video.size > self._most:
            path.unlink()
            raise OutputError(f"the video has {video.size} bytes, and this server keeps {self._most} at most")
        with self._changing:
            self._expire()
            while self._kept and sum(each.size for each in self._kept.values()) + video.size > self._most:
                self._drop(next(iter(self._kept)))
            self._kept[name] = video
        return video

    def written(self, frames: Sequence[Any], fps: int) -> bytes:
        """The bytes of a video's file that is not kept, and makes nobody make room.

        Raises:
            OutputError: It cannot be written.
        """
        path = Path(self._folder.name) / f"{secrets.token_hex(40)}.mp4"  # longer than names of requests are
        try:
            save(list(frames), path, frames_per_second=fps)
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def names(self) -> frozenset[str]:
        """Of all videos that are kept."""
        with self._changing:
            self._expire()
            return frozenset(self._kept)

    def find(self, name: str) -> StoredVideo | None:
        """A video that is still kept."""
        with self._changing:
            self._expire()
            return self._kept.get(name)

    def read(self, name: str) -> bytes | None:
        """A video's bytes; ``None`` where it is not kept any more."""
        with self._changing:
            self._expire()
            video = self._kept.get(name)
            return None if video is None else video.path.read_bytes()

    def remove(self, name: str) -> None:
        """Keep a video no longer, if it is kept."""
        with self._changing:
            if name in self._kept:
                self._drop(name)

    def close(self) -> None:
        """Remove all of them, and the folder."""
        with self._changing:
            self._kept.clear()
            self._folder.cleanup()

    def _expire(self) -> None:
        now = self._clock()
        for name in [name for name, each in self._kept.items() if each.until <= now]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._kept.pop(name).path.unlink(missing_ok=True)
