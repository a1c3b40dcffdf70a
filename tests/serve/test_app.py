"""HTTP in front of an engine that is made up: a real socket, no ranks."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
uvicorn = pytest.importorskip("uvicorn")

from pydantic import ValidationError  # noqa: E402

from tests.serve.client import GENERATIONS, Client, pixels  # noqa: E402
from tests.serve.made_up import PATIENCE, MadeUpEngine, until  # noqa: E402
from tokenring_xdit.config import read_config  # noqa: E402
from tokenring_xdit.errors import ConfigurationError, EngineError, OutputError  # noqa: E402
from tokenring_xdit.serve.app import application  # noqa: E402
from tokenring_xdit.serve.config import RequestLimits, ServeConfig  # noqa: E402
from tokenring_xdit.serve.engine_owner import EngineOwner, ServiceState  # noqa: E402
from tokenring_xdit.serve.errors import RefusedError  # noqa: E402
from tokenring_xdit.serve.forecast import Forecast  # noqa: E402
from tokenring_xdit.serve.gpus import management_library  # noqa: E402
from tokenring_xdit.serve.intake import Intake  # noqa: E402
from tokenring_xdit.serve.memory import MemoryForecast  # noqa: E402
from tokenring_xdit.serve.metrics import Meters  # noqa: E402
from tokenring_xdit.serve.origins import refuse_foreign  # noqa: E402
from tokenring_xdit.serve.page import PAGE_PATHS  # noqa: E402
from tokenring_xdit.serve.parsing import PictureParser  # noqa: E402
from tokenring_xdit.serve.picture_runner import PictureRunner  # noqa: E402
from tokenring_xdit.serve.queue import JobQueue  # noqa: E402
from tokenring_xdit.serve.schema import GenerationBody  # noqa: E402

LIMITS = RequestLimits(waiting=2, pixels=512 * 512, steps=1000, body=10_000, upload=100_000)

DRAWING = {"size": "16x24", "steps": 2, "seed": 5}


@contextmanager
def served(
    key: str | None = None, loads: Any = None, *values: str, page: bool = False
) -> Iterator[tuple[Client, MadeUpEngine]]:
    """A server on a port of its own."""
    config = read_config(ServeConfig, None, ["model=embedded", *values])
    engine, queue = MadeUpEngine(config.choice.task), JobQueue(LIMITS.waiting)
    meters = Meters(config.degrees, queue)
    memory = MemoryForecast(config.memory_per_rank, meters.memory)
    owner = EngineOwner(
        loads or (lambda: engine),
        queue,
        PictureRunner(Forecast(), meters.step, memory, meters.took, meters.sent, meters.exposed),
        meters,
    )
    meters.watch(owner)
    app = application(Intake(PictureParser(config, LIMITS, owner, memory), owner, meters), key, page=page)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        owner.start()
        try:
            until(lambda: server.started and (loads or owner.state is ServiceState.READY))
            yield Client(listening.getsockname()[1], key), engine
        finally:
            engine.gate.set()
            owner.stop(10)
            server.should_exit = True
            thread.join(PATIENCE)
            engine.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def one() -> Iterator[tuple[Client, MadeUpEngine]]:
    """A server for requests good and bad."""
    with served() as found:
        yield found


@pytest.fixture
def client(one: tuple[Client, MadeUpEngine]) -> Client:
    one[1].gate.set()
    one[1].error = None
    return one[0]


@pytest.fixture
def engine(one: tuple[Client, MadeUpEngine]) -> MadeUpEngine:
    return one[1]


def test_pictures_have_seeds_that_follow_each_other_and_the_size_that_was_asked_for(client: Client) -> None:
    answer = client.draw(**DRAWING, n=3)
    assert answer.status == 200
    assert [each["seed"] for each in answer.json["data"]] == [5, 6, 7]
    assert [pixels(each["b64_json"])[0, 0].tolist() for each in answer.json["data"]] == [[s, 0, 0] for s in (5, 6, 7)]
    assert pixels(answer.json["data"][0]["b64_json"]).shape == (24, 16, 3)
    assert answer.json["size"] == "16x24"
    assert client.status(answer.headers["x-request-id"])["status"] == "done"


def test_a_slash_at_the_end_changes_nothing_and_head_is_get_without_the_body(client: Client) -> None:
    assert client.ask("POST", f"{GENERATIONS}/", {"prompt": "a red circle", **DRAWING}).status == 200
    assert client.ask("POST", f"{GENERATIONS}/", {"prompt": "a" * LIMITS.body}).status == 413
    assert client.ask("GET", "/v1/models/").json == client.ask("GET", "/v1/models").json
    for path, status in (("/ready", 200), ("/v1/models", 200), ("/nothing", 404), (GENERATIONS, 405)):
        answer = client.ask("HEAD", path)
        assert (answer.status, answer.body) == (status, b"")
    refused = client.ask("GET", GENERATIONS)
    assert (refused.status, refused.headers["allow"]) == (405, "POST")
    assert "GET is not for this path" in refused.error["message"]


def test_what_stands_behind_a_question_mark_is_taken_or_refused(client: Client) -> None:
    before = client.figures()['tokenring_requests_total{kind="image",outcome="refused"}']
    answer = client.ask("POST", f"{GENERATIONS}?n=3", {"prompt": "a red circle", **DRAWING})
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "n", "unknown_field")
    assert answer.error["message"] == "there is no parameter 'n' here: fields stand in the body"
    assert client.figures()['tokenring_requests_total{kind="image",outcome="refused"}'] == before + 1
    answer = client.ask("GET", "/v1/requests?limits=3")
    assert (answer.status, answer.error["message"]) == (
        400,
        "there is no parameter 'limits' here. Known: limit. Did you mean 'limit'?",
    )
    assert client.ask("GET", "/v1/requests?limit=3").status == 200
    assert client.ask("GET", "/v1/requests?limit=3&limit=4").error["message"] == "limit: is said twice"
    assert client.ask("GET", "/ready?probe=1").status == 200


def test_who_sends_far_too_much_in_pieces_hears_why(client: Client) -> None:
    """Where nothing is said of the length, and the client listens only once it has sent everything."""
    piece = b"10000\r\n" + b"a" * 2**16 + b"\r\n"
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for _ in range(64):
            connection.sendall(piece)
        connection.sendall(b"0\r\n\r\n")
        heard = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert heard.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in heard


FOREIGN: dict[str, dict[str, str]] = {
    "another site": {"Origin": "https://example.com", "Sec-Fetch-Site": "cross-site"},
    "another port": {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
    "an old browser": {"Origin": "http://example.com"},
    "a file": {"Origin": "null"},
    "no origin": {"Sec-Fetch-Site": "cross-site"},
    "a form": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "another name": {"Host": "127.0.0.1.example.com"},
    "no name": {"Host": "[::"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_without_a_key_pages_of_other_sites_are_refused(
    client: Client, engine: MadeUpEngine, headers: dict[str, str]
) -> None:
    asked = len(engine.asked)
    answer = client.ask("POST", GENERATIONS, {"prompt": "a red circle", **DRAWING}, headers)
    assert (answer.status, answer.error["code"]) == (403, "foreign_host" if "Host" in headers else "foreign_origin")
    assert len(engine.asked) == asked


def test_without_a_key_programs_and_its_own_page_are_served(client: Client) -> None:
    own = {"Origin": f"http://127.0.0.1:{client.port}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    body = {"prompt": "a red circle", **DRAWING}
    assert client.ask("POST", GENERATIONS, body, own).status == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    names = [{"Host": name} for name in ("localhost", "LOCALHOST:8000", "[::1]:8000", "10.0.0.7:80")]
    for headers in ({}, link, {"Sec-Fetch-Site": "none"}, *names):
        assert client.ask("GET", "/v1/models", headers=headers).status == 200, headers
    assert client.ask("GET", "/ready", headers=FOREIGN["another name"]).status == 200


def test_a_key_or_the_name_of_the_server_lets_other_names_in() -> None:
    elsewhere = {"Host": "pictures.example:8000", "Origin": "https://example.com"}
    with served("sesame") as (client, _):
        assert client.ask("GET", "/v1/models", headers=elsewhere).status == 200
    headers = {name.lower().encode(): value.encode() for name, value in elsewhere.items()}
    with pytest.raises(RefusedError, match="not for pages of other sites"):
        refuse_foreign("GET", headers, "Pictures.example")
    del headers[b"origin"]
    refuse_foreign("GET", headers, "Pictures.example")


def test_a_seed_that_nobody_gave_is_told(client: Client) -> None:
    first, second = client.draw(size="16x16", steps=1), client.draw(size="16x16", steps=1)
    assert first.json["seed"] == first.json["data"][0]["seed"] != second.json["seed"]


@pytest.mark.parametrize(("form", "kind"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8"), ("webp", b"RIFF")])
def test_formats(client: Client, form: str, kind: bytes) -> None:

    answer = client.draw(**DRAWING, output_format=form)
    assert base64.b64decode(answer.json["data"][0]["b64_json"]).startswith(kind)
    assert answer.json["output_format"] == form


def test_a_stream_shows_what_is_made_and_then_the_picture(client: Client) -> None:
    answer = client.draw(**{**DRAWING, "steps": 9}, stream=True, partial_images=2)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [event["type"] for event in answer.events] == [
        *["image_generation.partial_image"] * 2,
        "image_generation.completed",
    ]
    assert [event["partial_image_index"] for event in answer.events[:2]] == [0, 1]
    assert answer.events[-1]["seed"] == 5
    assert pixels(answer.events[-1]["b64_json"]).shape == (24, 16, 3)


REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "body": ({"body": 3}, "body", "there is no field 'body'"),
    "unknown": ({"stepz": 3}, "stepz", "there is no field 'stepz'. Known: .*Did you mean 'steps'"),
    "kind": ({"steps": "3"}, "steps", "steps: '3' is not a whole number"),
    "bool": ({"steps": True}, "steps", "steps: True is not a whole number"),
    "many": ({"n": 11}, "n", "n: 11 is not allowed; it has to be at most 10"),
    "url": ({"response_format": "url"}, "response_format", "use b64_json"),
    "form": ({"output_format": "gif"}, "output_format", "it has to be 'png', 'jpeg' or 'webp'"),
    "quality": ({"output_compression": 5}, "output_compression", "is for jpeg and webp"),
    "partial": ({"partial_images": 1}, "partial_images", "needs a stream"),
    "streams": ({"stream": True, "n": 2}, "n", "2 pictures cannot be streamed"),
    "size": ({"size": "large"}, "size", "neither WIDTHxHEIGHT"),
    "digits": ({"size": "1x" + "9" * 5000}, "size", "neither"),
    "pixels": ({"size": "1024x1024"}, "size", "1048576 pixels are asked for, and this server generates at most 262144"),
    "steps": ({"steps": 1001}, "steps", "1001 are more than the 1000"),
    "seeds": ({"seed": 2**63 - 1, "n": 2}, "seed", "leaves no seeds for 2 pictures"),
    "seed": ({"seed": -1}, "seed", "it has to be at least 0"),
    "empty": ({"prompt": ""}, "prompt", "prompt: is empty"),
    "long": ({"prompt": "a" * 9000 + "b" * 900_000}, None, "more than 10000 bytes"),
    "guidance": ({"guidance": -1}, "guidance", "at least 0"),
    "null": ({"prompt": None}, "prompt", "prompt: None is not text"),
}


@pytest.mark.parametrize(("more", "param", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_the_field(client: Client, more: dict[str, Any], param: str | None, words: str) -> None:

    answer = client.draw(**more)
    assert answer.status == (413 if param is None else 400)
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert re.search(words, answer.error["message"])
    assert "\n" not in answer.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "guidance": NaN}',
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 5000,
        b'{"a":' * 1500,
        b"\xff\xfe",
        b'{"prompt": {"a": 1}}',
        b'{"prompt": "x", "size": 7}',
    ],
)
def test_what_is_no_request_is_a_400(client: Client, body: bytes) -> None:
    assert client.ask("POST", GENERATIONS, body).status == 400


def test_very_many_unknown_fields_are_one_mistake() -> None:
    with pytest.raises(ValidationError) as raised:
        GenerationBody.model_validate({"prompt": "x", **{f"a{i}": 1 for i in range(1000)}})
    assert [each["loc"] for each in raised.value.errors()] == [("a0",)]


def test_a_form_of_another_page_is_no_request(client: Client) -> None:
    answer = client.ask("POST", GENERATIONS, b'{"prompt": "x"}', {"Content-Type": "text/plain"})
    assert answer.status == 400
    assert "application/json" in answer.error["message"]


def test_another_model_another_path_another_method(client: Client) -> None:
    assert client.draw(model="embedded", size="16x16", steps=1).status == 200
    assert (client.draw(model="dall-e-3").status, client.draw(model="dall-e-3").error["code"]) == (
        404,
        "model_not_found",
    )
    assert client.ask("GET", "/v1/nothing").error["message"] == "there is no such path here"
    chats = client.ask("POST", "/v1/chat/completions", {"messages": []})
    assert (chats.status, "as 'embedded' makes no texts" in chats.error["message"]) == (404, True)
    assert client.ask("GET", GENERATIONS).status == 405
    assert client.ask("GET", "/v1/requests/nothing").error["code"] == "not_found"


def test_edits_are_refused_where_the_model_takes_no_picture(client: Client) -> None:
    answer = client.ask("POST", "/v1/images/edits", b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status, answer.error["code"]) == (400, "unsupported")
    assert answer.error["message"].startswith("'embedded' takes no picture: use /v1/images/generations, or ")


def test_the_model_is_described(client: Client) -> None:
    (model,) = client.ask("GET", "/v1/models").json["data"]
    assert model["id"] == "embedded"
    assert model["defaults"] == {"size": "64x64", "steps": 28, "guidance": 3.5, "negative_prompt": None}
    assert model["limits"]["pixels"] == LIMITS.pixels
    assert client.ask("GET", "/v1/models/embedded").json == model
    assert client.ask("GET", "/v1/models/other").status == 404


def test_the_openapi_page_says_400_for_mistakes(client: Client) -> None:
    assert client.ask("GET", "/docs").status == 200
    schema = client.ask("GET", "/openapi.json").json
    assert "422" not in str(schema["paths"])
    assert "400" in schema["paths"][GENERATIONS]["post"]["responses"]


def test_a_full_queue_is_a_429_and_cancelling_makes_room(client: Client, engine: MadeUpEngine) -> None:
    engine.gate.clear()
    names = ["full-0", "full-1", "full-2"]
    connections = []
    for name in names:
        connections.append(client.begin(name, **DRAWING))
        until(lambda name=name: client.status(name))  # type: ignore[misc]
        until(lambda: client.status("full-0")["status"] == "running")
    assert [client.status(name)["status"] for name in names] == ["running", "queued", "queued"]
    assert client.status("full-2")["seconds_left"] is not None  # learned from the tests before
    full = client.draw(**DRAWING)
    assert full.status == 429
    assert int(full.headers["retry-after"]) >= 1
    assert full.error["code"] == "queue_full"
    assert client.ask("DELETE", "/v1/requests/full-1").json["status"] == "cancelled"
    assert client.answer(connections[1]).status == 499
    same = client.answer(client.begin("full-1", **DRAWING))
    assert "is the name of another request" in same.error["message"]
    engine.gate.set()
    assert [client.answer(connections[i]).status for i in (0, 2)] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_not_drawn_for(client: Client, engine: MadeUpEngine, stream: bool) -> None:
    name = f"gone-{stream}"
    engine.gate.clear()
    connection = client.begin(name, **{**DRAWING, "steps": 900}, stream=stream)
    until(lambda: (client.status(name) or {}).get("status") == "running")
    connection.close()
    job = client.status(name)
    assert job["step"] == 0
    until(lambda: _cancelled(client, engine, name))
    assert client.status(name)["step"] < 900


def _cancelled(client: Client, engine: MadeUpEngine, name: str) -> bool:
    """Let some steps pass, slowly enough for the server to hear that nobody listens."""
    engine.gate.set()
    engine.gate.clear()
    return bool(client.status(name)["status"] == "cancelled")


def test_a_stream_that_fails_says_so(client: Client, engine: MadeUpEngine) -> None:
    engine.error = EngineError("rank 1 was killed by SIGKILL (process 7)\n(log: /tmp/secret/rank1.log)")
    (event,) = client.draw(**DRAWING, stream=True).events
    assert event["type"] == "error"
    assert event["error"]["message"] == "rank 1 was killed by SIGKILL (process 7)"
    answer = client.draw(**DRAWING)
    assert (answer.status, answer.error["code"]) == (500, "rank_failed")
    assert b"secret" not in answer.body
    engine.error = ConfigurationError("steps is 1; FluxPipeline refuses it")
    assert (client.draw(**DRAWING).status, client.draw(**DRAWING).error["param"]) == (400, "steps")


def test_what_cannot_be_written_is_no_fault_of_the_client(client: Client, engine: MadeUpEngine) -> None:
    engine.error = OutputError("/tmp/secret/a.mp4 could not be written: No space left on device")
    answer = client.draw(**DRAWING)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (500, "not_written", "server_error")
    assert b"secret" not in answer.body


def test_what_nobody_expected_tells_nothing_of_this_machine(client: Client, engine: MadeUpEngine) -> None:
    engine.error = ZeroDivisionError("/tmp/secret")
    answer = client.draw(**DRAWING)
    assert (answer.status, answer.error["message"]) == (500, "the server failed; its log says why")
    assert b"secret" not in client.ask("GET", "/v1/requests").body


def test_figures_equal_what_clients_saw() -> None:
    with served() as (client, engine):
        for _ in range(3):
            assert client.draw(**DRAWING).status == 200
        assert client.draw(n=0).status == 400
        assert client.draw(size="large").status == 400
        assert client.ask("POST", GENERATIONS, b"\xff").status == 400
        assert client.draw(prompt="a" * LIMITS.body).status == 413
        engine.error = EngineError("rank 0 failed")
        assert client.draw(**DRAWING).status == 500
        figures = client.figures()
        outcomes = {name: value for name, value in figures.items() if name.startswith("tokenring_requests_total")}
        assert outcomes == {
            'tokenring_requests_total{kind="image",outcome="done"}': 3,
            'tokenring_requests_total{kind="image",outcome="refused"}': 4,
            'tokenring_requests_total{kind="image",outcome="failed"}': 1,
            'tokenring_requests_total{kind="image",outcome="cancelled"}': 0,
        }
        assert figures['tokenring_request_duration_seconds_count{kind="image"}'] == 3
        assert figures['tokenring_step_duration_seconds_count{schedule="token_ring"}'] == 3
        assert figures['tokenring_rank_up{rank="0"}'] == 1
        assert [figures[f'tokenring_sent_bytes_total{{rank="{rank}"}}'] for rank in range(2)] == [3 * 7, 3 * 9]
        waits = {le: figures[f'tokenring_step_exposed_ratio_bucket{{le="{le}"}}'] for le in ("0.2", "0.3", "0.5")}
        assert waits == {"0.2": 0, "0.3": 3, "0.5": 6}  # of each rank, and of each request that was served
        for stage in ("encode", "denoise", "decode"):
            assert figures[f'tokenring_stage_duration_seconds_count{{stage="{stage}"}}'] == 3
        assert figures["tokenring_forecast_duration_ratio_count"] == 2  # nothing was known before the first
        if management_library() is None:
            assert not [name for name in figures if "gpu" in name]


def test_what_will_not_fit_into_memory_is_refused_and_a_size_that_fits_is_named() -> None:
    with served(None, None, "memory_per_rank=2100MiB", "batch_size=2") as (client, engine):
        for side in (16, 96):
            assert client.draw(size=f"{side}x{side}", steps=2).status == 200
        made = len(engine.timeouts)
        answer = client.draw(size="160x160", steps=2)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "not_enough_memory", "size")
        assert answer.error["message"] == (
            "size: 160x160 needs about 1.56 GiB of a rank's memory, and 1.05 GiB are free; 128x128 fits"
        )
        assert "2 pictures of 112x112 at once need" in client.draw(size="112x112", n=2).error["message"]
        assert len(engine.timeouts) == made
        assert client.draw(size="128x128", steps=2).status == 200
        figures = client.figures()
        assert figures["tokenring_forecast_memory_ratio_sum"] == pytest.approx(
            figures["tokenring_forecast_memory_ratio_count"], abs=0.3
        )
        assert figures["tokenring_forecast_memory_ratio_count"] == 2  # nothing was known before the first


def test_keys() -> None:
    with served("open sesame") as (client, _):
        stranger = Client(client.port)
        for path in ("/live", "/ready", "/health"):
            assert stranger.ask("GET", path).status == 200
        for path in ("/metrics", "/v1/models", "/docs", "/openapi.json", "/v1/requests", "/nothing"):
            assert stranger.ask("GET", path).status == 401
        assert stranger.draw(**DRAWING).error["code"] == "invalid_api_key"
        assert Client(client.port, "open sesam").draw(**DRAWING).status == 401
        assert client.draw(**DRAWING).status == 200
        assert client.ask("GET", "/metrics").status == 200


def test_files_of_the_page_are_open_and_nothing_else_is_where_it_is_wanted() -> None:
    with served("open sesame", page=True) as (client, _):
        stranger = Client(client.port)
        page = stranger.ask("GET", "/")
        assert page.status == 200 and page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'"} <= set(policy)
        loaded = set(re.findall(r'(?:href|src)="(.*?)"', page.body.decode())) - {"data:,"}
        for name in list(loaded):
            code = stranger.ask("GET", f"/{name}").body.decode()
            loaded |= {f"page/{each}" for each in re.findall(r'from "\./(.*?)"', code)}
        assert {f"/{each}" for each in loaded} <= PAGE_PATHS and len(loaded) > 5
        for path in PAGE_PATHS:
            content = stranger.ask("GET", path)
            assert content.status == 200
            assert re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", content.body) == []
            assert stranger.ask("POST", path, {}).status == 405
        for path in ("/metrics", "/v1/models", "/v1/requests", "/page", "/page/", "/page/../metrics", "//"):
            assert stranger.ask("GET", path).status == 401
        assert client.ask("GET", "/v1/models").json["data"][0]["kind"] == "image"
        assert "/page/page.js" not in client.ask("GET", "/openapi.json").json["paths"]


def test_without_ui_there_is_no_page(client: Client) -> None:
    assert [client.ask("GET", path).status for path in ("/", "/page/page.js")] == [404, 404]


def test_a_stream_shows_every_step_and_the_list_is_as_long_as_is_asked(client: Client) -> None:
    answer = client.draw(**{**DRAWING, "steps": 9}, stream=True, partial_images=500)
    assert [event["type"].rpartition(".")[2] for event in answer.events] == [*["partial_image"] * 8, "completed"]
    name = client.draw(**DRAWING).json["id"]
    (newest,) = client.ask("GET", "/v1/requests?limit=1").json["data"]
    assert newest["id"] == name and newest["seconds"] >= 0
    assert len(client.ask("GET", "/v1/requests?limit=2").json["data"]) == 2
    assert client.ask("GET", "/v1/requests?limit=0").error["param"] == "limit"


def test_while_loading_nothing_is_drawn_and_everybody_is_told() -> None:
    loaded = threading.Event()
    engine = MadeUpEngine()

    def load() -> Any:
        assert loaded.wait(PATIENCE)
        return engine

    with served(None, load) as (client, _):
        assert client.ask("GET", "/live").status == 200
        ready = client.ask("GET", "/ready")
        assert (ready.status, ready.json["status"]) == (503, "loading")
        answer = client.draw(**DRAWING)
        assert (answer.status, answer.error["code"]) == (503, "loading")
        assert int(answer.headers["retry-after"]) > 0
        assert client.draw(stepz=1).status == 400
        loaded.set()
        until(lambda: client.ask("GET", "/ready").status == 200)
        assert client.draw(**DRAWING).status == 200


def test_a_config_says_what_requests_leave_out() -> None:
    with served(None, None, "size=40x32", "steps=3", "prompt=a run's") as (client, _):
        answer = client.draw()
        assert answer.json["size"] == "40x32"
        assert client.status(answer.json["id"])["steps"] == 3
        assert client.ask("GET", "/v1/models/embedded").json["defaults"]["size"] == "40x32"
