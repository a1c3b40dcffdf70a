"""One rank does something else than the others: all of them hear why, and are together afterwards."""

from __future__ import annotations

from tests.hosts.transformers import onesided
from tests.support.ranks import RankPool


def test_what_one_rank_refuses_is_raised_on_all(ranks: RankPool) -> None:
    expected = {
        "labels": "UnsupportedError: rank 1 refuses: labels was passed",
        "rows": "UnsupportedError: rank 1 refuses: logits_to_keep was given as a tensor of two dimensions",
        "mask": "UnsupportedError: rank 1 refuses: attention_mask has 39 columns",
        "ids": "UnsupportedError: rank 1 refuses: a LlamaForCausalLM that is sharded over ranks takes at least one of",
        "decoder": "UnsupportedError: rank 1 refuses: output_attentions was passed",
        "score": "UnsupportedError: rank 1 refuses: score was given 1 tokens",
    }
    answers = ranks.run(2, onesided.refusals_of_one_rank)
    for said, error, _ in answers:
        assert {name: said.get(name) for name, text in expected.items() if text not in said.get(name, "")} == {}
        assert error <= 1e-5
    assert answers[0][0] == answers[1][0]
    assert answers[0][2] == answers[1][2]


def test_what_generate_does_not_take_is_refused_on_all(ranks: RankPool) -> None:
    answers = ranks.run(2, onesided.refusals_of_generate)
    for said, same in answers:
        assert same
        assert said == answers[0][0]
        for name in ("synced", "synced, one", "exit", "exit, given", "exit, one", "exit, model's"):
            expected = "synced_gpus=True was passed" if "synced" in name else "assistant_early_exit was given"
            assert said[name].startswith("UnsupportedError: rank 1 refuses: " if "one" in name else "UnsupportedError")
            assert expected in said[name]


def test_caches_have_the_same_numbers_after_a_failure(ranks: RankPool) -> None:
    answers = ranks.run(2, onesided.caches_after_a_failure)
    for said, same, numbers in answers:
        assert "tokenizer" in said["stop strings"]
        assert same
        assert numbers == answers[0][2]


def test_weights_that_were_changed_on_one_rank_are_refused(ranks: RankPool) -> None:
    answers = ranks.run(2, onesided.other_weights)
    for said, error in answers:
        assert said == answers[0][0]
        assert [*said] == ["call", "score", "generate"]
        for text in said.values():
            assert text.startswith("AgreementError: all ranks ")
            assert "the digest of the model is llama-" in text
            assert text.endswith("load the same weights and adapters everywhere")
        assert error <= 1e-5


def test_ranks_that_want_other_things_to_travel_are_refused(ranks: RankPool) -> None:
    """And what cannot be planned is, on all of them, without a wait for ranks that have heard of it already."""
    asked = "all ranks compute one {} together, but prefill is {} on rank 0 and {} on rank 1: pass the same everywhere"
    answers = ranks.run(2, onesided.other_prefills)
    for said, same in answers:
        assert same
        assert said == answers[0][0]
        assert asked.format("language model", "'queries'", "'keys'") in said["others"]
        assert said["unknown"].startswith("AgreementError: rank 1 refuses: ")
        assert asked.format("call of the language model", "queries", "keys") in said["call"]
        assert "but prefill is queries on rank 0 and keys on rank 1" in said["generate"]
        assert "1 hosts are no network" in said["unplanned call"]
        assert "1 hosts are no network" in said["unplanned"]


def test_logits_have_no_gradients(ranks: RankPool) -> None:
    for said, error, partial in ranks.run(2, onesided.gradients):
        assert "does not require grad" in said
        assert error <= 1e-5
        assert not partial
