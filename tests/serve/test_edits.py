"""Pictures that requests bring, over HTTP in front of an engine that is made up."""

from __future__ import annotations

import functools
import io
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image

from tests.serve.client import Answer, Client, pixels
from tests.serve.made_up import MadeUpEngine, until
from tests.serve.servers import served as running
from tokenring_xdit.config import read_config
from tokenring_xdit.hosts.models import pipeline_named
from tokenring_xdit.pipelines.embedded import MODEL_PATH
from tokenring_xdit.serve.jobs import InputPictures

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package)

from tests.serve.test_app import LIMITS, served  # noqa: E402
from tokenring_xdit.serve import parsing  # noqa: E402
from tokenring_xdit.serve.config import RequestLimits, ServeConfig  # noqa: E402
from tokenring_xdit.serve.parsing import PictureParser  # noqa: E402
from tokenring_xdit.serve.schema import EditBody  # noqa: E402
from tokenring_xdit.serve.uploads import Uploads  # noqa: E402

EDITS = "/v1/images/edits"

Served = tuple[Client, MadeUpEngine]


@pytest.fixture(scope="module")
def inpainting() -> Iterator[Served]:
    with served(None, None, "task=inpainting", "strength=0.5") as found:
        yield found


@pytest.fixture(scope="module")
def starting() -> Iterator[Served]:
    with served(None, None, "task=image-to-image") as found:
        yield found


def file(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


def drawn(width: int = 40, height: int = 32) -> Image.Image:
    rows = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(rows)


def mask(width: int = 40, height: int = 32) -> Image.Image:
    """Of which the right half is transparent."""
    found = Image.new("RGBA", (width, height), (9, 9, 9, 255))
    found.paste((9, 9, 9, 0), (width // 2, 0, width, height))
    return found


def edit(client: Client, *parts: tuple[str, Any], **fields: Any) -> Answer:
    """Send a form; files are bytes."""
    return client.ask("POST", EDITS, *form(*parts, **fields))


def form(*parts: tuple[str, Any], **fields: Any) -> tuple[bytes, dict[str, str]]:
    """A form and its headers."""
    boundary = uuid.uuid4().hex
    said = [("prompt", "a red circle"), ("size", "16x24"), ("steps", "4"), *parts, *fields.items()]
    body = b""
    for name, value in said:
        named = f'Content-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            named += f'; filename="../../etc/{name}.png"\r\nContent-Type: image/png'
        content = value if isinstance(value, bytes) else str(value).encode()
        body += f"--{boundary}\r\n{named}\r\n\r\n".encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


PICTURE = file(drawn())
SIXTEEN = file(Image.fromarray(np.arange(40 * 32, dtype=np.uint16).reshape(32, 40)))
PALETTE = file(drawn().quantize(8), transparency=3)


def test_the_engine_gets_picture_mask_and_strength(inpainting: Served) -> None:
    client, engine = inpainting
    answer = edit(client, ("image[]", PICTURE), ("mask", file(mask())), seed=7, n=2)
    assert answer.status == 200, answer.body
    assert [each["seed"] for each in answer.json["data"]] == [7, 8]
    first, second = engine.asked[-2:]
    assert np.array_equal(np.asarray(first["image"]), np.asarray(drawn()))
    white = np.asarray(first["mask_image"])
    assert (white[:, :20].max(), white[:, 20:].min(), first["strength"]) == (0, 255, 0.5)
    assert first["image"] is second["image"]
    assert client.status(answer.json["id"])["steps"] == 4  # two of each
    edit(client, ("image", PICTURE), ("mask", file(mask())), strength=1)
    assert engine.asked[-1]["strength"] == 1


def test_forecasts_know_what_an_edit_looks_at(monkeypatch: pytest.MonkeyPatch, starting: Served) -> None:
    owner: Any = SimpleNamespace(engine=starting[1], refuse_unready=lambda: None)
    parser = PictureParser(
        read_config(ServeConfig, None, ["model=embedded", "task=image-to-image"]), RequestLimits(), owner
    )
    body, uploads = EditBody(prompt="a fox", size="16x24", steps=4), Uploads((drawn(),), None)
    assert parser.edit(body, uploads).inputs == InputPictures(1)
    monkeypatch.setattr(parsing, "pipeline_named", lambda name: replace(pipeline_named(name), references=True))
    assert parser.edit(body, uploads).inputs == InputPictures(1, (40 * 32).bit_length())


def test_an_edit_that_is_streamed(starting: Served) -> None:
    client, engine = starting
    picture = file(drawn(), "JPEG", exif=turned())
    answer = edit(client, ("image", picture), stream="true", partial_images=1)
    assert [event["type"] for event in answer.events] == ["image_edit.partial_image", "image_edit.completed"]
    assert engine.asked[-1]["image"].size == (32, 40)
    assert "mask_image" not in engine.asked[-1]


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


BAD: dict[str, tuple[list[tuple[str, Any]], str | None, str]] = {
    "none": ([], "image", "image: is missing; it has to be a file"),
    "url": ([("image", "https://example.com/a.png")], "image", "is text, and has to be a file: nothing is fetched"),
    "path": ([("image", "/etc/passwd")], "image", "is text, and has to be a file"),
    "empty": ([("image", b"")], "image", "is an empty file"),
    "no picture": ([("image", b"<svg/>" * 50)], "image", "is no picture in PNG, JPEG or WEBP"),
    "another format": ([("image", file(drawn(), "GIF"))], "image", "is no picture in PNG, JPEG or WEBP"),
    "sixteen bits": ([("image", SIXTEEN)], "image", "of the mode I;16, .* convert it to RGB"),
    "transparent": ([("image", file(mask()))], "image", "has transparent parts"),
    "palette": ([("image", PALETTE)], "image", "has transparent parts"),
    "cut off": ([("image", PICTURE[: len(PICTURE) // 2])], "image", "the picture cannot be read"),
    "pixels": ([("image", file(Image.new("1", (600, 600))))], "image", "has 360000 pixels, and 262144 are the most"),
    "together": ([("image", file(Image.new("1", (500, 500))))] * 2, "image", "and 12144 are the most"),
    "two": ([("image[]", PICTURE)] * 2, "image", "2 pictures were sent, and 'embedded' starts from one"),
    "other file": ([("image", PICTURE), ("photo", PICTURE)], "photo", "is a file; files are sent as image or"),
    "no mask": ([("image", PICTURE)], "mask", "mask: is missing, and 'embedded' needs one"),
    "masks": ([("image", PICTURE), ("mask", file(mask())), ("mask", file(mask()))], "mask", "is said twice"),
    "opaque": ([("image", PICTURE), ("mask", PICTURE)], "mask", "has no alpha"),
    "mask size": (
        [("image", PICTURE), ("mask", file(mask(32, 40)))],
        "mask",
        "32x40 pixels, and the picture has 40",
    ),
    "strength": ([("image", PICTURE), ("mask", file(mask())), ("strength", "2")], "strength", "at most 1"),
    "unknown": ([("image", PICTURE), ("stepz", "2")], "stepz", "there is no field 'stepz'.*Did you mean"),
    "twice": ([("image", PICTURE), ("seed", "1"), ("seed", "2")], "seed", "is said twice"),
    "large": ([("image", b"x" * 100_001)], None, "more than 100000 bytes"),
}


@pytest.mark.parametrize(("parts", "param", "words"), BAD.values(), ids=BAD.keys())
def test_refusals_of_edits_name_the_field(
    inpainting: Served, parts: list[tuple[str, Any]], param: str | None, words: str
) -> None:
    answer = edit(inpainting[0], *parts)
    assert answer.status == (413 if param is None else 400), answer.body
    assert (answer.error["type"], answer.error["param"]) == ("invalid_request_error", param)
    assert re.search(words, answer.error["message"])
    assert "\n" not in answer.error["message"]


def test_a_form_is_whole_and_in_utf_8(inpainting: Served) -> None:
    body, headers = form(("image", PICTURE), ("mask", file(mask())))
    for part in (body[:-3], body[: body.rindex(b"PNG")]):
        cut = inpainting[0].ask("POST", EDITS, part, headers)
        assert (cut.status, cut.error["message"]) == (400, "the form cannot be read: its end is missing")
    for charset, status in (("punycode", 400), ("undefined", 400), ("no such", 400), ("UTF-8", 200)):
        said = {"Content-Type": f'{headers["Content-Type"]}; charset="{charset}"'}
        answer = inpainting[0].ask("POST", EDITS, body, said)
        assert answer.status == status, answer.body
        assert status == 200 or answer.error["message"].endswith(f"its charset is '{charset}', and has to be UTF-8")


def unreadable(client: Client) -> Any:
    """What is said of an upload that no picture is read of."""
    return edit(client, ("image", b"no picture")).error["code"]


def has_status(client: Client, name: str, status: str) -> bool:
    found = client.status(name)
    return found is not None and found["status"] == status


def test_nothing_is_read_of_an_upload_that_finds_no_place() -> None:
    with served(None, None, "task=image-to-image") as (client, engine):
        assert unreadable(client) == "invalid_picture"
        head = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "9999"}
        half = [client.open("POST", EDITS, b"--x\r\n", head) for _ in range(LIMITS.waiting + 1)]
        until(lambda: unreadable(client) == "queue_full")
        for connection in half:
            connection.close()
        until(lambda: unreadable(client) == "invalid_picture")
        engine.gate.clear()
        body, kind = form(("image", PICTURE))
        kept = []
        for name, status in (("first", "running"), *((str(number), "queued") for number in range(LIMITS.waiting))):
            kept.append(client.open("POST", EDITS, body, {**kind, "X-Request-Id": name}))
            until(functools.partial(has_status, client, name, status))
        assert unreadable(client) == "queue_full"
        engine.gate.set()
        assert [client.answer(connection).status for connection in kept] == [200] * len(kept)


def test_what_an_edit_needs_no_mask_for_refuses_one(starting: Served) -> None:
    answer = edit(starting[0], ("image", PICTURE), ("mask", file(mask())))
    assert answer.error["message"] == "mask: 'embedded' takes none: leave it out"


def test_the_page_asks_for_the_pictures_that_the_model_needs(inpainting: Served, starting: Served) -> None:
    described = [client.ask("GET", "/v1/models/embedded").json for client, _ in (inpainting, starting)]
    inpaints, starts = (each["pictures"] for each in described)
    assert inpaints == {"image": "needed", "mask": "needed", "strength": 0.5}
    assert starts == {"image": "needed", "strength": 0.6}
    assert [each["limits"]["pictures"] for each in described] == [1, 1]
    page = (resources.files("tokenring_xdit.serve") / "assets/page.html").read_text()
    assert all(f'data-field="{name}"' in page for name in inpaints)


def test_a_model_that_starts_from_pictures_does_not_draw_without_one(starting: Served) -> None:
    answer = starting[0].draw(size="16x16")
    assert (answer.status, answer.error["code"]) == (400, "unsupported")
    assert "send one to /v1/images/edits" in answer.error["message"]
    body = json.dumps({"prompt": "x", "image": "https://example.com/a.png"}).encode()
    said = starting[0].ask("POST", EDITS, body)
    assert (said.status, "no URLs are fetched" in said.error["message"]) == (400, True)
    schema = starting[0].ask("GET", "/openapi.json").json["paths"][EDITS]["post"]["requestBody"]["content"]
    assert {"image", "mask", "strength"} <= schema["multipart/form-data"]["schema"]["properties"].keys()
    assert starting[0].ask("GET", "/v1/models/embedded").json["limits"]["upload_bytes"] == 100_000


@pytest.mark.skipif(Version(version("diffusers")) < Version("0.42"), reason="diffusers as the host needs 0.42")
@pytest.mark.e2e
def test_the_client_of_openai_edits_and_gets_the_pictures_of_one_process(tmp_path: Path) -> None:
    from diffusers import FluxInpaintPipeline

    openai = pytest.importorskip("openai")
    prompt, size, steps, seed = "a red circle", 64, 4, 5
    white = Image.new("L", (40, 32))
    white.paste(255, (20, 0, 40, 32))
    pipe = FluxInpaintPipeline.from_pretrained(MODEL_PATH)
    pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"image": drawn(), "mask_image": white, "strength": 0.75, "num_inference_steps": steps}
    given |= {"width": size, "height": size, "max_sequence_length": 24}
    made = np.asarray(pipe(prompt, generator=torch.Generator().manual_seed(seed), **given).images[0], dtype=int)
    words = ("embedded", "tokenring_degree=2", "task=inpainting")
    with running(tmp_path, "embedded", *words) as (_, client):
        theirs = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0)
        more = {"steps": steps, "seed": seed, "strength": 0.75}

        def asked(**options: Any) -> Any:
            picture, hole = io.BytesIO(PICTURE), io.BytesIO(file(mask()))
            picture.name, hole.name = "a.png", "mask.png"
            told = {"image": picture, "mask": hole, "prompt": prompt, "size": f"{size}x{size}", **options}
            return theirs.images.edit(**told, extra_body=more)

        expected = pixels(asked().data[0].b64_json)
        assert np.abs(expected.astype(int) - made).max() <= 1  # rounded to 256 levels
        events = list(asked(stream=True, partial_images=1))
        assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
        assert np.array_equal(pixels(events[-1].b64_json), expected)
        with pytest.raises(openai.BadRequestError, match="there is no field 'quality'"):
            asked(quality="high")
        other = theirs.images.edit(image=PICTURE, mask=file(mask()), prompt=prompt, extra_body={**more, "seed": 6})
        assert not np.array_equal(pixels(other.data[0].b64_json), expected)
