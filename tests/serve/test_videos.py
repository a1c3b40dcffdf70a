"""``tokenring-xdit serve`` with a small Wan on two ranks: videos as jobs and at once, against the pipeline alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.test_run import frames_of
from tests.serve.client import Answer, Client
from tests.serve.servers import PATIENCE, Served, served, until
from tests.support.browser import Browser, browser, needs_browser
from tests.support.families import FAMILIES
from tokenring_xdit.pipelines.request import save

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "imageio_ffmpeg"):
    pytest.importorskip(package)

pytestmark = pytest.mark.e2e

VIDEOS = "/v1/videos"
SEED, STEPS, FRAMES, FPS = 3, 2, 5, 10
FAR = 20_000  # steps: minutes longer than a test

FILMING: dict[str, Any] = {"prompt": "a red fox", "size": "96x128", "steps": STEPS, "seed": SEED}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@dataclass(frozen=True)
class Expected:
    """What the pipeline alone makes, as an MP4 shows it.

    Attributes:
        pixels: Of frames, ``[frames, height, width, 3]``.
        magnified: What MP4, from frame to frame the more, makes of the 1e-5 that attention may be off, on average.
    """

    pixels: np.ndarray
    magnified: float


@pytest.fixture(scope="module")
def expected(folder: Path) -> Expected:
    made = FAMILIES["wan-t2v"].make()
    made.save_pretrained(folder / "model")
    pipe = type(made).from_pretrained(folder / "model")
    call = {"width": 96, "height": 128, "num_inference_steps": STEPS, "num_frames": FRAMES, "output_type": "np"}
    frames = np.asarray(pipe("a red fox", generator=torch.Generator().manual_seed(SEED), **call).frames[0])
    nudged = np.clip(frames + 1e-5 * np.random.default_rng(0).standard_normal(frames.shape), 0, 1)
    pixels = shown(frames, folder)
    return Expected(pixels, float(np.abs(shown(nudged, folder) - pixels).mean()))


def shown(frames: np.ndarray, folder: Path) -> np.ndarray:
    pictures = [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in frames]
    save(pictures, folder / "reference.mp4", frames_per_second=FPS)
    return frames_of(folder / "reference.mp4")


@pytest.fixture(scope="module")
def server(folder: Path, expected: Expected) -> Iterator[Served]:
    words = (
        str(folder / "model"),
        "tokenring_degree=2",
        f"frames={FRAMES}",
        f"fps={FPS}",
        "--max-frames",
        "100",
        "--max-steps",
        str(FAR),
        "--ui",
    )
    with served(folder, "model", *words) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return server[1]


def kept(folder: Path) -> list[Path]:
    return list(folder.glob("tokenring-videos-*/*"))


def equals(content: bytes, expected: Expected, folder: Path) -> bool:
    (folder / "answer.mp4").write_bytes(content)
    found = frames_of(folder / "answer.mp4")
    assert expected.pixels.std() > 30
    difference = float(np.abs(found - expected.pixels).mean())
    return found.shape == expected.pixels.shape and difference <= min(4, 1.5 * expected.magnified)


def under_way(client: Client, **more: Any) -> str:
    """Begin a video that takes long; returns its name once a step was made."""
    answer = client.ask("POST", VIDEOS, {**FILMING, "steps": FAR, **more})
    assert answer.status == 200, answer.body
    name: str = answer.json["id"]
    until(lambda: client.status(name)["step"] >= 1)
    return name


def test_the_client_of_openai_makes_polls_fetches_and_deletes(client: Client, expected: Expected, folder: Path) -> None:
    openai = pytest.importorskip("openai")
    theirs = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)
    more = {name: FILMING[name] for name in ("steps", "seed")}
    video = theirs.videos.create_and_poll(prompt="a red fox", model="model", size="96x128", extra_body=more)
    assert (video.status, video.progress, video.size, video.seconds) == ("completed", 100, "96x128", "0.5")
    assert video.expires_at > video.completed_at >= video.created_at
    assert equals(theirs.videos.download_content(video.id).content, expected, folder)
    assert [each.id for each in theirs.videos.list()] == [video.id]
    assert len(kept(folder)) == 1
    assert theirs.videos.delete(video.id).deleted
    assert kept(folder) == []
    with pytest.raises(openai.NotFoundError):
        theirs.videos.retrieve(video.id)
    with pytest.raises(openai.BadRequestError, match="there is no field 'stepz'"):
        theirs.videos.create(prompt="a red fox", extra_body={"stepz": 3})
    with pytest.raises(openai.BadRequestError, match="input_reference: is a file, and this model starts from none"):
        theirs.videos.create(prompt="a red fox", input_reference=("a.png", b"x", "image/png"))


def test_at_once_it_is_the_same_video_and_not_kept(client: Client, expected: Expected, folder: Path) -> None:
    answer = client.ask("POST", f"{VIDEOS}/sync", {**FILMING, "seconds": 0.5})
    assert client.ask("GET", VIDEOS).json["data"] == []
    assert (answer.status, answer.headers["content-type"], answer.headers["x-seed"]) == (200, "video/mp4", str(SEED))
    assert equals(answer.body, expected, folder)
    assert kept(folder) == []


def test_progress_is_real_and_says_when_to_ask_again(client: Client, folder: Path) -> None:
    name = under_way(client)
    until(lambda: client.ask("GET", f"{VIDEOS}/{name}").json["progress"] >= 1)
    answer = client.ask("GET", f"{VIDEOS}/{name}")
    assert (answer.json["status"], answer.json["seconds"]) == ("in_progress", "0.5")
    assert 100 <= int(answer.headers["openai-poll-after-ms"]) <= 5000
    waiting = client.ask("POST", VIDEOS, FILMING)
    assert (waiting.json["status"], waiting.json["progress"]) == ("queued", 0)
    assert "openai-poll-after-ms" in waiting.headers
    early = client.ask("GET", f"{VIDEOS}/{name}/content")
    assert (early.status, early.error["code"]) == (400, "in_progress")
    assert client.ask("DELETE", f"/v1/requests/{name}").status == 200
    until(lambda: client.ask("GET", f"{VIDEOS}/{name}").json["status"] == "failed")
    cancelled = client.ask("GET", f"{VIDEOS}/{name}").json
    assert (cancelled["error"]["code"], cancelled["progress"] < 100) == ("cancelled", True)
    until(lambda: client.ask("GET", f"{VIDEOS}/{waiting.json['id']}").json["status"] == "completed")
    variant = client.ask("GET", f"{VIDEOS}/{waiting.json['id']}/content?variant=thumbnail")
    assert (variant.status, variant.error["param"]) == (400, "variant")
    known = client.ask("GET", f"{VIDEOS}?limit=1").json
    assert ([each["id"] for each in known["data"]], known["has_more"]) == ([waiting.json["id"]], True)
    before = client.ask("GET", f"{VIDEOS}?after={known['last_id']}").json
    assert ([each["id"] for each in before["data"]], before["has_more"]) == ([name], False)
    client.ask("DELETE", f"{VIDEOS}/{waiting.json['id']}")
    assert kept(folder) == []


def test_deleting_and_going_away_give_a_video_up(client: Client, expected: Expected, folder: Path) -> None:
    name = under_way(client)
    assert client.ask("DELETE", f"{VIDEOS}/{name}").json == {"id": name, "object": "video.deleted", "deleted": True}
    assert client.ask("GET", f"{VIDEOS}/{name}").status == 404
    connection = client.open("POST", f"{VIDEOS}/sync", {**FILMING, "steps": FAR}, {"X-Request-Id": "gone"})
    until(lambda: (client.status("gone") or {}).get("step", 0) >= 1)
    connection.close()
    until(lambda: client.status("gone")["status"] == "cancelled")
    assert client.status("gone")["step"] < FAR
    assert equals(client.ask("POST", f"{VIDEOS}/sync", FILMING).body, expected, folder)
    assert kept(folder) == []


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"frame": 3}, "frame", "there is no field 'frame'. Known: "),
    "picture": ({"input_reference": {"image_url": "http://x"}}, "input_reference", "starts from no picture"),
    "both": ({"seconds": 1, "frames": 3}, "seconds", "leave one of them out"),
    "long": (
        {"seconds": 1e9, "fps": 8},
        "seconds",
        "1e+09 are more than 12.5, the 100 frames that this server makes",
    ),
    "many": ({"frames": 101}, "frames", "101 are more than the 100"),
    "none": ({"seconds": 0}, "seconds", "has to be above 0"),
    "word": ({"seconds": "four"}, "seconds", "'four' is not a number"),
    "size": ({"size": "wide"}, "size", "neither WIDTHxHEIGHT"),
    "model": ({"model": "sora-2"}, "model", "there is no 'sora-2' here"),
}


def test_refusals_name_the_field_and_nothing_waits(client: Client) -> None:
    before = len(client.ask("GET", "/v1/requests").json["data"])
    for more, param, words in REFUSED.values():
        answer = client.ask("POST", VIDEOS, {**FILMING, **more})
        assert answer.status == (404 if param == "model" else 400), answer.body
        assert answer.error["param"] == param
        assert words in answer.error["message"]
    for body, kind in ((b"{", "application/json"), (b"x", "text/plain"), (b"x", "multipart/form-data")):
        assert client.ask("POST", VIDEOS, body, {"Content-Type": kind}).status == 400
    said_twice = form(client, b"prompt", b"a", b"prompt", b"b")
    assert "prompt: is said twice" in said_twice.error["message"]
    pictures = client.ask("POST", "/v1/images/generations", {"prompt": "a fox"})
    assert (pictures.status, "as 'model' makes no images" in pictures.error["message"]) == (404, True)
    assert len(client.ask("GET", "/v1/requests").json["data"]) == before


def form(client: Client, *words: bytes) -> Answer:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
        for pair in zip(words[::2], words[1::2], strict=True)
    ]
    return client.ask(
        "POST", VIDEOS, b"".join([*parts, b"--x--\r\n"]), {"Content-Type": "multipart/form-data; boundary=x"}
    )


@needs_browser
def test_the_page_shows_a_video_and_cancels_one(client: Client, tmp_path: Path) -> None:
    with browser(tmp_path) as driver:
        page = Browser(driver)
        page.visit(f"http://127.0.0.1:{client.port}/")
        page.until("document.querySelector('#begin')?.offsetParent")
        for field, value in {
            "prompt": "a red fox",
            "size": "96x128",
            "steps": str(STEPS),
            "frames": str(FRAMES),
        }.items():
            page.find(f"#{field}").send_keys(value)
        page.run("document.getElementById('begin').click()")
        page.until("document.getElementById('video').readyState >= 2 && !document.getElementById('begin').disabled")
        video = "const v = document.getElementById('video'); return [v.videoWidth, v.videoHeight, v.duration]"
        assert page.run(video) == [96, 128, pytest.approx(FRAMES / FPS, abs=0.01)]
        page.find("#steps").clear()
        page.find("#steps").send_keys(str(FAR))
        page.run("document.getElementById('begin').click()")
        page.until("document.getElementById('progress-words').textContent.startsWith('Step ')")
        page.run("document.getElementById('cancel').click()")
        page.until("document.getElementById('problem').textContent.startsWith('Cancelled at step ')")


def test_the_model_is_described_and_the_end_leaves_nothing(client: Client, server: Served, folder: Path) -> None:
    model = client.ask("GET", "/v1/models/model").json
    assert (model["defaults"]["frames"], model["defaults"]["fps"]) == (FRAMES, FPS)
    assert (model["limits"]["frames"], model["limits"]["n"]) == (100, 1)
    name = client.ask("POST", VIDEOS, FILMING).json["id"]
    until(lambda: client.ask("GET", f"{VIDEOS}/{name}").json["status"] == "completed")
    figures = client.figures()
    assert figures['tokenring_requests_total{kind="video",outcome="done"}'] >= 4
    assert figures['tokenring_requests_total{kind="video",outcome="refused"}'] >= len(REFUSED)
    assert len(kept(folder)) == 1
    server[0].send_signal(signal.SIGTERM)
    assert server[0].wait(PATIENCE) == 0
    assert list(folder.glob("tokenring-videos-*")) == []
    assert server[0].stderr is not None
    assert "Traceback" not in server[0].stderr.read()
