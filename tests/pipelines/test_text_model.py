"""A language model on ranks: what of a conversation is computed, how answers are generated, and their pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.pipelines import text_jobs
from tests.support.language import small_model_folder
from tests.support.ranks import RankPool
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.text_options import TextOptions, overlaid
from tokenring_xdit.pipelines.text_pieces import PieceDecoder, StopSeeker, decoded

ANSWER = 8
QUESTIONS = ["It was a dark and stormy night. " * 10, "Why?", "And then?"]


@pytest.mark.parametrize(("kind", "answer"), [("llama", ANSWER), ("gemma3", 200)])
def test_a_turn_computes_its_own_tokens_only(ranks: RankPool, tmp_path: Path, kind: str, answer: int) -> None:
    """Also where an answer reads otherwise, and is longer than what layers with a window keep by themselves."""
    small_model_folder(tmp_path, kind)
    first, *others = ranks.run(2, text_jobs.computed_tokens, str(tmp_path), QUESTIONS, answer, timeout=300)
    assert others == [first]
    known = 0
    for prompt, tokens, wanted, computed in first:
        assert tokens == wanted
        assert len(tokens) == answer
        assert answer <= computed <= prompt - known + answer
        known = prompt


def test_a_question_that_is_refused_makes_no_chat_give_way(ranks: RankPool, tmp_path: Path) -> None:
    small_model_folder(tmp_path)
    (kept,) = ranks.run(1, text_jobs.refused_questions, str(tmp_path), 80, timeout=300)
    assert [sorted(chats) for chats in kept] == [[1], [1, 2], [1, 2], [1, 2]]


@pytest.mark.parametrize("heard", [1, 2])
def test_a_question_is_given_up_while_its_prompt_is_read(ranks: RankPool, tmp_path: Path, heard: int) -> None:
    small_model_folder(tmp_path)
    for rank, (kept, words, answers) in enumerate(ranks.run(2, text_jobs.given_up, str(tmp_path), heard, timeout=300)):
        assert words == (0 if rank else heard)  # one a layer: the model has two
        assert 0 < kept[1][1] <= kept[0][1]
        assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, {"max_new_tokens": 256, "do_sample": False}),
        ({"max_new_tokens": 3, "temperature": 0.0}, {"max_new_tokens": 3, "do_sample": False}),
        ({"temperature": 0.5}, {"max_new_tokens": 256, "temperature": 0.5, "do_sample": True}),
        ({"top_k": 4, "seed": None}, None),
        ({"top_k": 4, "top_p": None}, {"max_new_tokens": 256, "top_k": 4, "do_sample": True}),
        ({"do_sample": True}, {"max_new_tokens": 256, "do_sample": True}),
        ({"do_sample": False, "temperature": 0}, {"max_new_tokens": 256, "do_sample": False}),
        ({"repetition_penalty": 1.5}, {"max_new_tokens": 256, "repetition_penalty": 1.5, "do_sample": False}),
    ],
)
def test_options_are_those_of_generate(given: dict[str, Any], arguments: dict[str, Any] | None) -> None:
    if arguments is None:
        with pytest.raises(ConfigurationError, match="no generation option 'seed'"):
            TextOptions.of(given)
    else:
        assert TextOptions.of(given).arguments() == {**arguments, "num_beams": 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temprature": 1}, "there is no generation option 'temprature'. Known: .* Did you mean 'temperature'?"),
        ({"temperature": 5e-324}, "temperature is 5e-324; it has to be 0, or a number from 0.01 to 100"),
        ({"repetition_penalty": 1e308}, r"repetition_penalty is 1e\+308; it has to be a number from 0.01 to 100"),
        ({"temperature": -1}, "temperature is -1; it has to be 0, or a number from 0.01 to 100"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0}, "top_p is 0; it has to be a number above 0 and at most 1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"do_sample": 1}, "do_sample is 1; it has to be True or False"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"max_new_tokens": 10**9}, "max_new_tokens is 1000000000; it has to be a whole number from 1 to 1000000"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"top_p": 10**5000}, "top_p is a number of more digits"),
        ({"do_sample": True, "temperature": 0}, "temperature=0 means greedy decoding, and do_sample=True"),
        ({"do_sample": False, "temperature": 2}, "do_sample=False means greedy decoding, and temperature=2"),
        ({"temperature": 0.0, "top_k": 5}, "temperature=0.0 means greedy decoding, and top_k=5"),
        ({"stop": ""}, "stop is ''; it has to be a text, or a list of up to 4 texts, none of them empty"),
        ({"stop": []}, "stop is \\[\\]"),
        ({"stop": ["a", 3]}, "stop is"),
        ({"top_p": 2, "min_p": -1}, "top_p is 2; .*; min_p is -1"),
    ],
)
def test_options_that_cannot_be_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        TextOptions.of(given)


def test_pieces_end_where_characters_do(tmp_path: Path) -> None:
    small_model_folder(tmp_path)  # whose tokens are bytes
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "Zwölf Boxkämpfer jagen 🙂 日本語\nüber\n  den Sylter Deich"
    tokens = tokenizer(text).input_ids
    decoder = PieceDecoder(tokenizer)
    pieces = [decoder.add([token]) for token in tokens]
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text)
    assert decoder.rest(text) == ""
    decoder = PieceDecoder(tokenizer)
    begun = "".join(decoder.add([token]) for token in tokens[: text.encode().index("🙂".encode()) + 2])
    assert begun == "Zwölf Boxkämpfer jagen "
    assert decoder.rest(begun + "\ufffd") == "\ufffd"
    decoder = PieceDecoder(tokenizer)
    assert decoder.add(tokens[:3]) + decoder.add([tokenizer.eos_token_id, *tokens[3:]]) == text


def test_pieces_are_the_text_where_a_tokenizer_would_clean_it_up() -> None:
    class Letters:
        def decode(self, tokens: list[int], clean_up_tokenization_spaces: bool = True, **more: Any) -> str:
            text = "".join(map(chr, tokens))
            return text.replace(" .", ".") if clean_up_tokenization_spaces else text

    tokens = [ord(letter) for letter in "x = a .b"]
    decoder = PieceDecoder(Letters())
    assert "".join(decoder.add([token]) for token in tokens) == decoded(Letters(), tokens) == "x = a .b"


@pytest.mark.parametrize(
    ("usual", "said", "together"),
    [
        ({}, {"top_k": None}, {}),
        ({"max_new_tokens": 9, "temperature": 0.5}, {"temperature": 0.7}, {"max_new_tokens": 9, "temperature": 0.7}),
        ({"temperature": 0.5, "top_p": 0.9, "stop": "a"}, {"temperature": 0}, {"temperature": 0, "stop": "a"}),
        ({"do_sample": False}, {"top_p": 0.9}, {"top_p": 0.9}),
        ({"temperature": 0}, {"top_p": 0.9, "stop": ["b"]}, {"top_p": 0.9, "stop": ["b"]}),
    ],
)
def test_a_question_says_better_than_what_is_usual(
    usual: dict[str, Any], said: dict[str, Any], together: dict[str, Any]
) -> None:
    assert overlaid(usual, said) == together
    TextOptions.of(together)


def test_stops_are_one_text_or_several() -> None:
    assert [TextOptions.of({"stop": stop}).stop for stop in ("a", ["a", "b"])] == [("a",), ("a", "b")]
    assert "stop" not in TextOptions.of({"stop": "a"}).arguments()


@pytest.mark.parametrize("stops", [(), ("end",), ("ab", "bcd"), ("aab",), ("z", "aa"), ("a b",)])
@pytest.mark.parametrize("text", ["", "the end, and", "aaab", "abcd", "the en", "a  a b", "xaab"])
@pytest.mark.parametrize("size", [1, 2, 3, 99])
def test_pieces_before_a_stop_are_the_text_before_it(text: str, stops: tuple[str, ...], size: int) -> None:
    seeker, told = StopSeeker(stops), ""
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for count, piece in enumerate(pieces, 1):
        told += seeker.add(piece)
        heard = text[: size * count]
        if seeker.found:
            text = heard  # as no more is generated
            break
        assert heard.startswith(told)
    told += seeker.end("")
    first = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    assert told == text[:first]
    assert seeker.found == any(stop in text for stop in stops)
