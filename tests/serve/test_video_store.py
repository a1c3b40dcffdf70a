"""Where videos are kept."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.serve.made_up import job
from tokenring_xdit.errors import OutputError
from tokenring_xdit.serve.video_runner import VideoRunner
from tokenring_xdit.serve.video_store import KEPT_SECONDS, VideoStore

for package in ("imageio", "imageio_ffmpeg"):
    pytest.importorskip(package)

FRAMES = [Image.new("RGB", (16, 16))] * 2


@pytest.fixture(scope="module")
def size() -> int:
    """Bytes of a video of these frames."""
    store = VideoStore(10**6)
    found = store.add("a", FRAMES, 8)
    assert found.path.read_bytes() == store.read("a")
    assert (found.frames, found.fps, found.size) == (2, 8, found.path.stat().st_size)
    store.close()
    return found.size


def folder_of(store: VideoStore) -> Path:
    return Path(store._folder.name)


def test_the_oldest_make_room_and_nothing_is_left(size: int) -> None:
    store = VideoStore(5 * size // 2)
    for name in ("a", "b", "c"):
        store.add(name, FRAMES, 8)
    assert [store.find(name) is None for name in "abc"] == [True, False, False]
    assert sorted(path.name for path in folder_of(store).iterdir()) == ["b.mp4", "c.mp4"]
    assert store.read("a") is None
    store.remove("b")
    store.remove("b")
    assert [path.name for path in folder_of(store).iterdir()] == ["c.mp4"]
    store.close()
    assert not folder_of(store).exists()


def test_one_that_is_larger_than_all_room_is_refused_and_leaves_nothing(size: int) -> None:
    store = VideoStore(size - 1)
    with pytest.raises(OutputError, match=f"the video has {size} bytes, and this server keeps {size - 1} at most"):
        store.add("a", FRAMES, 8)
    assert list(folder_of(store).iterdir()) == []
    store.close()


def test_after_its_time_one_is_removed() -> None:
    now = 0.0
    store = VideoStore(10**6, seconds=60, clock=lambda: now)
    store.add("a", FRAMES, 8)
    now = 59.0
    assert store.find("a") is not None
    now = 60.0
    assert store.find("a") is None
    assert list(folder_of(store).iterdir()) == []
    store.close()


def test_a_clock_that_is_set_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = VideoStore(10**6)
    store.add("a", FRAMES, 8)
    later = time.time() + 10 * KEPT_SECONDS
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.names() == {"a"}
    store.close()


def test_a_name_that_comes_again_replaces_its_video_on_a_full_shelf(size: int) -> None:
    store = VideoStore(3 * size // 2)
    store.add("a", FRAMES, 8)
    again = store.add("a", FRAMES, 8)
    assert store.read("a") == again.path.read_bytes()
    assert store.names() == {"a"}
    store.close()


@pytest.mark.parametrize("stored", [False, True])
def test_only_what_is_to_be_kept_makes_others_make_room(size: int, stored: bool) -> None:
    store = VideoStore(3 * size // 2)
    store.add("a", FRAMES, 8)
    drawing: Any = SimpleNamespace(make=lambda engine, job, most: [FRAMES])
    engine: Any = None
    (made,) = VideoRunner(drawing, store).make(engine, job(name="b", stored=stored, fps=8), 1.0)
    assert store.names() == ({"b"} if stored else {"a"})
    assert len(list(folder_of(store).iterdir())) == 1
    assert len(made if isinstance(made, bytes) else made.path.read_bytes()) == size
    store.close()
