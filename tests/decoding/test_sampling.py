"""The sampler: its arithmetic is transformers', its frequencies the softmax's, its greedy tokens ``generate``'s."""

import pytest
import torch
from helpers import left_padded, prompt_ids
from transformers import GenerationConfig, LogitsProcessorList, SuppressTokensLogitsProcessor

import decodeloop
from decodeloop import Sampler
from decodeloop.decoding.prompt import check_prompt

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])


def draw(sampler, count=20000, logits=LOGITS, tokens=(3,)):
    """``count`` rows of the same logits, drawn at once: how often each token came."""
    ids = torch.tensor([tokens]).expand(count, -1)
    choose = sampler.start(check_prompt(ids))
    return torch.bincount(choose(ids, logits.expand(count, -1)), minlength=logits.shape[1])


def p_value(counts, expected):
    """Pearson's chi-square test: how often frequencies drawn from ``expected`` stray at least so far."""
    counts, expected = counts[expected > 0], expected[expected > 0] * counts.sum()
    assert expected.min() >= 5  # the statistic's distribution is an approximation that needs it
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2), statistic / 2))


# A sampler that is right fails one time in ten thousand; the seed is fixed, so it either always does or never.
LEVEL = 1e-4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature):
    counts = draw(Sampler(temperature=temperature, seed=0), count=100_000)
    assert p_value(counts, (LOGITS / temperature).softmax(-1)[0]) > LEVEL
    assert p_value(counts, (LOGITS / (temperature * 1.05)).softmax(-1)[0]) < LEVEL  # the test can tell 5 %


def test_frequencies_follow_the_softmax_with_one_seed_per_row():
    counts = draw(Sampler(seed=range(20000)))
    assert p_value(counts, LOGITS.softmax(-1)[0]) > LEVEL


def test_what_filters_leave_over_keeps_its_proportions():
    for options, kept in (({"top_k": 2}, 2), ({"top_p": 0.5}, 1), ({"min_p": 0.2}, 2), ({"top_p": 0.95}, 3)):
        counts = draw(Sampler(**options, seed=0))
        assert counts.nonzero().flatten().tolist() == list(range(kept))
        assert kept == 1 or p_value(counts[:kept], LOGITS[0, :kept].softmax(-1)) > LEVEL


def test_typical_can_leave_out_the_most_probable_token():
    logits = torch.tensor([[3.0, 1.5, 1.5, 1.5, 1.5, 1.5]])  # a token that tells little, among many that tell more
    assert 0 not in draw(Sampler(typical_p=0.2, seed=0), logits=logits).nonzero()


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert draw(Sampler(seed=0), logits=logits).nonzero().flatten().tolist() == [1, 3]


@pytest.mark.parametrize(("number", "expected"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_the_edges_of_the_uniform_number_fall_on_tokens_that_can_come(monkeypatch, number, expected):
    monkeypatch.setattr(torch, "rand", lambda *size, dtype, generator: torch.full(size, number, dtype=dtype))
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert Sampler().start(check_prompt(torch.tensor([[3]])))(torch.tensor([[3]]), logits).tolist() == [expected]


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


def test_repetition_penalty_lowers_what_was_said():
    free, penalised = draw(Sampler(seed=0), tokens=(0,)), draw(Sampler(repetition_penalty=2.0, seed=0), tokens=(0,))
    assert penalised[0] < 0.9 * free[0]


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


def test_the_same_seed_gives_the_same_draws_and_another_does_not():
    ids = torch.full((50, 1), 3)
    first, again, other = (
        Sampler(seed=seed).start(check_prompt(ids))(ids, LOGITS.expand(50, -1)).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_rows_draw_different_numbers_from_one_seed():
    ids = torch.full((50, 1), 3)
    assert len(set(Sampler(seed=1).start(check_prompt(ids))(ids, torch.zeros(50, 1000)).tolist())) > 40


def test_without_a_seed_torch_decides():
    ids = torch.full((50, 1), 3)
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append(Sampler().start(check_prompt(ids))(ids, LOGITS.expand(50, -1)).tolist())
    assert draws[0] == draws[1]


def test_a_row_with_its_own_seed_gets_what_it_gets_alone(decoder):
    ids, mask = left_padded([9, 4, 7])
    options = {"max_new_tokens": 20, "eos_token_id": None}
    shape = {"temperature": 0.9, "top_k": 30, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2}
    together = decoder(ids, attention_mask=mask, sampler=Sampler(**shape, seed=[3, 2**40, 3]), **options)
    for row, (length, seed) in enumerate([(9, 3), (4, 2**40), (7, 3)]):
        for alone in (seed, [seed]):
            got = decoder(ids[row : row + 1, -length:], sampler=Sampler(**shape, seed=alone), **options)
            assert got[0, length:].tolist() == together[row, 9:].tolist()


def test_the_same_seed_gives_the_same_tokens_on_pytorch_and_onnx(phi, phi_graph):
    onnx = decodeloop.OnnxDecoder(phi_graph.path, device="cpu")
    ids, mask = left_padded([9, 4])
    options = {"attention_mask": mask, "max_new_tokens": 25, "eos_token_id": None}
    for sampler in (
        Sampler(seed=[5, 6], typical_p=0.9, min_p=0.02),
        Sampler(seed=5, top_p=0.95, bad_words_ids=[[5], [9, 11]], no_repeat_ngram_size=3),
        Sampler(do_sample=False, repetition_penalty=1.3, forced_tokens={2: 17}),
    ):
        expected = decodeloop.generate(phi, ids, sampler=sampler, **options)
        assert torch.equal(onnx.generate(ids, sampler=sampler, **options), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"typical_p": 0.0},
        {"typical_p": 1.5},
        {"repetition_penalty": 0},
        {"no_repeat_ngram_size": -2},
        {"min_new_tokens": -1},
        {"min_new_tokens": True},
        {"bad_words_ids": [5, 6]},
        {"bad_words_ids": [[5], []]},
        {"bad_words_ids": [[-1]]},
        {"forced_tokens": [5, 6]},
        {"forced_tokens": {0: -1}},
        {"forced_tokens": {"first": 3}},
        {"do_sample": None},
        {"seed": 1.5},
        {"seed": -1},
        {"seed": [1, None]},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match="expected") as error:
        Sampler(**options)
    assert str(error.value).startswith(f"{name}={value!r}: expected ")


def test_seeds_for_another_batch_are_named():
    with pytest.raises(ValueError, match=r"seed=\[1, 2\] has 2 seeds and the prompt 3 rows: expected one per row, or"):
        Sampler(seed=[1, 2]).start(check_prompt(prompt_ids(3, 4)))


@pytest.mark.parametrize("options", [{"bad_words_ids": [[3], [4, 97]]}, {"forced_tokens": {5: 97}}], ids=str)
def test_token_ids_that_the_model_does_not_have_are_named(decoder, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} holds token id 97: expected 0 to 96, the model's vocabulary"):
        decoder(prompt_ids(1, 4), sampler=Sampler(**options))


@pytest.mark.parametrize("do_sample", [True, False])
def test_a_row_without_a_token_to_choose_is_named(do_sample):
    ids = torch.tensor([[4], [3]])
    banned = Sampler(bad_words_ids=[[3, token] for token in range(5)], do_sample=do_sample)
    with pytest.raises(
        ValueError, match="row 1 has no token to choose at step 0, its best score is -inf: either every"
    ):
        banned.start(check_prompt(ids))(ids, LOGITS.expand(2, -1))
    with pytest.raises(ValueError, match="row 0 has no token to choose at step 0, its best score is nan"):
        Sampler(do_sample=do_sample).start(check_prompt(ids))(ids, LOGITS.expand(2, -1) * torch.nan)


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
