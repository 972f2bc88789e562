"""What a sampler's rules allow: their arithmetic is transformers', greedy tokens with them ``generate``'s."""

import pytest
import torch
from helpers import left_padded, prompt_ids
from transformers import GenerationConfig, LogitsProcessorList, SuppressTokensLogitsProcessor

import decodeloop
from decodeloop import Sampler
from decodeloop.decoding.prompt import check_prompt

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])


PROCESSORS = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": [[5], [7, 9], [1, 2, 3]]},
    {"bad_words_ids": [[2], [5]]},  # 2 ends a row
    {"min_new_tokens": 4},
]
WARPERS = [
    {"temperature": 0.7},
    {"top_k": 20},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"typical_p": 0.8},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9},
]
EVERYTHING = {name: value for options in (*PROCESSORS, *WARPERS) for name, value in options.items()}


@pytest.mark.parametrize("options", [*PROCESSORS, *WARPERS, EVERYTHING], ids=str)
@pytest.mark.parametrize("do_sample", [True, False])
def test_scores_are_those_of_the_processors_that_transformers_builds(llama, options, do_sample):
    ids, ends = prompt_ids(4, 12) % 12, [2, 11]  # few different ids: n-grams come again
    ids[0, -1], ids[1, -2:] = 7, torch.tensor([1, 2])  # begin the bad words
    # top-k is 50 in generate unless it is told otherwise
    config = GenerationConfig(**({"top_k": 0} | options), do_sample=do_sample, eos_token_id=ends)
    llama._prepare_special_tokens(config, device="cpu")
    expected = llama._get_logits_processor(config, input_ids_seq_length=10)
    choose = Sampler(**options, do_sample=do_sample, seed=0).start(check_prompt(ids[:, :10]), eos_token_ids=ends)
    for step in (10, 12):
        logits = torch.randn(4, 97, generator=torch.Generator().manual_seed(step)) * 3
        scores = choose.scores(ids[:, :step], logits)
        assert torch.equal(scores, expected(ids[:, :step], logits))
        assert torch.equal(scores, choose.scores(ids[:, :step], logits.double()))


def free_run(model, **options):
    return decodeloop.generate(model, prompt_ids(2, 9), eos_token_id=None, max_new_tokens=30, **options)[:, 9:].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.2},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": True},
        {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "bad_words_ids": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["phi", "llama"])
def test_greedy_decoding_with_processors_gives_the_tokens_of_generate(request, name, options):
    model = request.getfixturevalue(name)
    free = free_run(model)
    if "bad_words_ids" in options:
        options = options | {"bad_words_ids": [[free[0][3]], free[1][5:7], free[0][10:13]]}
    expected = model.generate(prompt_ids(2, 9), do_sample=False, max_new_tokens=30, eos_token_id=None, **options)
    got = free_run(model, sampler=Sampler(do_sample=False, **options))
    assert got == expected[:, 9:].tolist()
    assert got != free


@pytest.mark.parametrize("options", [{"no_repeat_ngram_size": 2}, {"bad_words_ids": [[5], [9, 11]]}], ids=str)
def test_a_padded_batch_gives_the_tokens_of_generate(llama, options):
    ids, mask = left_padded([9, 4, 7])
    settings = {"attention_mask": mask, "max_new_tokens": 20, "eos_token_id": None}
    expected = llama.generate(ids, do_sample=False, **settings, **options)
    got = decodeloop.generate(llama, ids, sampler=Sampler(do_sample=False, **options), **settings)
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 1},
                                     {"no_repeat_ngram_size": 2}, {"bad_words_ids": [[0, 5], [9, 11], [3, 4, 5]]},
                                     EVERYTHING], ids=str)  # fmt: skip
def test_padding_counts_for_nothing(options):
    ids, mask = left_padded([6, 2, 1])
    logits = torch.randn(3, 97, generator=torch.Generator().manual_seed(0))
    together = Sampler(**options).start(check_prompt(ids, mask), [2]).scores(ids, logits)
    for row, length in enumerate([6, 2, 1]):
        alone = Sampler(**options).start(check_prompt(ids[row : row + 1, -length:]), [2])
        assert torch.equal(together[row], alone.scores(ids[row : row + 1, -length:], logits[row : row + 1])[0])


def test_a_bad_sequence_is_banned_from_the_second_token_of_a_text():
    scores = Sampler(bad_words_ids=[[3, 1]]).start(check_prompt(torch.tensor([[3]]))).scores
    assert scores(torch.tensor([[3]]), LOGITS)[0].isinf().tolist() == [False, True, False, False, False]


def test_a_token_id_that_only_the_embedding_has_is_no_obstacle():
    ids = torch.tensor([[7, 3]])  # five logits: some models embed more tokens than they predict
    for options in ({"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 1}):
        scores = Sampler(**options).start(check_prompt(ids)).scores(ids, LOGITS)
        assert (scores != LOGITS).nonzero()[:, 1].tolist() == [3]


def test_forced_tokens_come_at_their_step_whatever_is_banned(decoder, phi):
    free = decodeloop.generate(phi, prompt_ids(2, 5), max_new_tokens=8, eos_token_id=None)
    for do_sample in (True, False):
        sampler = Sampler(forced_tokens={0: 50, 3: 51}, bad_words_ids=[[51]], top_k=1, do_sample=do_sample)
        tokens = decoder(prompt_ids(2, 5), max_new_tokens=8, eos_token_id=None, sampler=sampler)[:, 5:]
        assert tokens[:, 0].tolist() == [50, 50]
        assert tokens[:, 3].tolist() == [51, 51]
        assert (tokens == 51).sum() == 2
    begun = decoder(prompt_ids(2, 5), max_new_tokens=8, eos_token_id=None,
                    sampler=Sampler(do_sample=False, forced_tokens=dict(enumerate(free[0, 5:8].tolist()))))  # fmt: skip
    assert begun[0].tolist() == free[0].tolist()  # forced to say what it would have said: the rest follows


def test_min_new_tokens_puts_the_end_off():
    ids, logits = torch.tensor([[3]]), LOGITS
    choose = Sampler(min_new_tokens=2, do_sample=False).start(check_prompt(ids), eos_token_ids=[0, 1])
    for expected in (2, 2, 0):
        new = choose(ids, logits)
        assert new.tolist() == [expected]
        ids = torch.cat([ids, new[:, None]], dim=-1)


def test_rules_of_ones_own_hold_greedily_and_drawn(phi, decoder):
    """Even tokens alone, and none twice in a row: on every engine, in every row of a padded batch."""
    seen = []

    def even(input_ids, scores):
        seen.append(tuple(input_ids.shape))
        return scores.masked_fill(torch.arange(scores.shape[-1]) % 2 == 1, -torch.inf)

    def no_echo(input_ids, scores):
        return scores.scatter(1, input_ids[:, -1:], -torch.inf)

    ids, mask = left_padded([6, 2])
    for sampler in (
        Sampler(do_sample=False, processors=[even, no_echo]),
        Sampler(seed=1, top_k=9, repetition_penalty=1.2, processors=[even, no_echo]),
    ):
        seen.clear()
        new = decoder(ids, attention_mask=mask, max_new_tokens=12, eos_token_id=None, sampler=sampler)[:, 6:]
        assert (new % 2 == 0).all()
        assert (new[:, 1:] != new[:, :-1]).all()
        assert seen == [(2, length) for length in range(6, 18)]


def test_rules_are_those_of_generate(phi):
    ids = prompt_ids(1, 7)
    free = decodeloop.generate(phi, ids, max_new_tokens=20, eos_token_id=None)
    processors = [SuppressTokensLogitsProcessor(free[0, 9:12].tolist())]
    expected = phi.generate(
        ids, max_new_tokens=20, do_sample=False, eos_token_id=None, logits_processor=LogitsProcessorList(processors)
    )
    sampler = Sampler(do_sample=False, processors=processors)
    got = decodeloop.generate(phi, ids, max_new_tokens=20, eos_token_id=None, sampler=sampler)
    assert torch.equal(got, expected)
    assert not torch.equal(got, free)


def test_what_is_no_rule_is_named():
    for given in (3, "even", [3]):
        with pytest.raises(ValueError, match=r"processors=.*: expected a list of transformers LogitsProcessors"):
            Sampler(processors=given)


def test_rules_that_give_other_scores_than_they_got_are_named(decoder):
    def cut(input_ids, scores):
        return scores[:, :-1]

    def one_row(input_ids, scores):
        return scores[0]

    def forgets(input_ids, scores):
        scores[:, 0] = -torch.inf

    def doubles(input_ids, scores):
        return scores.double()

    ids, mask = left_padded([6, 2])
    for rule, said in (
        (cut, r"the processor cut returned \[2, 96\] of torch.float32.*: expected scores as it was given, \[2, 97\]"),
        (one_row, r"the processor one_row returned \[97\]"),
        (forgets, "the processor forgets returned None: expected scores"),
        (doubles, "the processor doubles returned .*float64"),
    ):
        with pytest.raises(ValueError, match=said):
            decoder(ids, attention_mask=mask, max_new_tokens=3, sampler=Sampler(processors=[rule]))
