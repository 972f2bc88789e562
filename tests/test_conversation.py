"""A conversation, on every engine: what is read of a turn, what is answered, what is said where it cannot go on."""

import copy

import pytest

import decodeloop
from decodeloop import Conversation, Sampler

TEMPLATE = "{% for turn in messages %}# {{ turn['role'] }}\n{{ turn['content'] }}\n{% endfor %}"
TURNS = ("def add(a, b):", "def sub(a, b):", "def mul(a, b):")


@pytest.fixture(scope="module")
def tokenizer(bundled):
    tokenizer = copy.deepcopy(bundled.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(params=["torch", "static", "dynamo", "fused"])
def model(request, bundled, bundled_graphs):
    """The bundled model on each engine."""
    if request.param == "torch":
        return bundled.model
    if request.param == "static":
        return decodeloop.TorchDecoder(bundled.model)
    return decodeloop.OnnxDecoder(bundled_graphs[request.param].path, device="cpu")


def whole(bundled, tokenizer, turns, system=None, **options):
    """The answer to turns of which nothing was read before, and how many tokens they are."""
    first = [{"role": "system", "content": system}] if system else []
    ids = tokenizer.apply_chat_template([*first, *turns], return_tensors="pt", return_dict=True)["input_ids"]
    tokens = decodeloop.generate(bundled.model, ids, **options)
    return tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True), ids.shape[1]


def test_history_is_not_read_again_and_answers_are_those_of_the_whole_text(model, bundled, tokenizer):
    conversation = Conversation(model, tokenizer, system="be short", max_new_tokens=20)
    for number, turn in enumerate(TURNS):
        answer = "".join(conversation.reply(turn))
        expected, length = whole(bundled, tokenizer, conversation.turns[:-1], "be short", max_new_tokens=20)
        assert answer == expected
        assert conversation.prefilled == length if number == 0 else conversation.prefilled < length
    assert conversation.prefilled < length / 2  # the last turn, and what the template wrote around it
    assert [turn["role"] for turn in conversation.turns] == ["user", "assistant"] * 3


def test_an_earlier_turn_may_be_edited(model, bundled, tokenizer):
    conversation = Conversation(model, tokenizer, max_new_tokens=12)
    for turn in TURNS[:2]:
        list(conversation.reply(turn))
    conversation.turns[1]["content"] = "    return b"
    answer = "".join(conversation.reply(TURNS[2]))
    assert answer == whole(bundled, tokenizer, conversation.turns[:-1], max_new_tokens=12)[0]


def test_forks_share_what_was_read_and_go_on_apart(model, bundled, tokenizer):
    first = Conversation(model, tokenizer, system="# write short functions", max_new_tokens=12)
    list(first.reply(TURNS[0]))
    others = [first.fork(turns=0), first.fork(turns=0), first.fork()]
    for other, turn in zip(others, TURNS, strict=True):
        before = len(other.turns)
        answer = "".join(other.reply(turn))
        expected, length = whole(bundled, tokenizer, other.turns[:-1], first.system, max_new_tokens=12)
        assert answer == expected
        assert other.prefilled < length
        assert len(other.turns) == before + 2
    list(first.reply(TURNS[1]))
    assert first.turns[-1]["content"] == whole(bundled, tokenizer, first.turns[:-1], first.system, max_new_tokens=12)[0]
    assert len(first.turns) == 4


def test_a_full_conversation_is_refused_and_stays_as_it_was(model, tokenizer):
    conversation = Conversation(model, tokenizer, max_new_tokens=20, max_positions=50)
    full = r'conversation is full: \d+ tokens and .* of 50 positions.*when_full="forget"'
    list(conversation.reply(TURNS[0]))
    with pytest.raises(ValueError, match=full):
        list(conversation.reply(TURNS[1]))
    assert [turn["content"] for turn in conversation.turns][::2] == [TURNS[0]]
    conversation.turns = []
    assert "".join(conversation.reply(TURNS[0]))


def test_the_oldest_turns_are_forgotten_until_half_is_free(model, bundled, tokenizer):
    conversation = Conversation(model, tokenizer, max_new_tokens=20, max_positions=80, when_full="forget")
    prefilled = []
    for number in range(6):
        answer = "".join(conversation.reply(f"def add_{number}(a, b):"))
        assert answer == whole(bundled, tokenizer, conversation.turns[:-1], max_new_tokens=20)[0]
        prefilled.append(conversation.prefilled)
    assert conversation.forgotten + len(conversation.turns) == 12
    assert len(conversation.turns) < 12
    with pytest.raises(ValueError, match="of 80 positions.*shorten the turn"):
        list(conversation.reply("x = 1\n" * 80))


def test_an_answer_that_is_stopped_stays_in_the_conversation(model, bundled, tokenizer):
    conversation = Conversation(model, tokenizer, max_new_tokens=30)
    answer = conversation.reply(TURNS[0])
    pieces = [next(answer) for _ in range(3)]
    answer.close()  # what Ctrl-C does
    assert conversation.turns[-1]["content"] == "".join(pieces)
    again = "".join(conversation.reply(TURNS[1]))
    assert again == whole(bundled, tokenizer, conversation.turns[:-1], max_new_tokens=30)[0]


def test_an_answer_ends_before_a_stop_string(model, bundled, tokenizer):
    free = "".join(Conversation(model, tokenizer, max_new_tokens=30).reply(TURNS[0]))
    stop = free[len(free) // 2 :][:3]
    conversation = Conversation(model, tokenizer, max_new_tokens=30, stop_strings=[stop])
    assert "".join(conversation.reply(TURNS[0])) == free[: free.index(stop)]
    again = "".join(conversation.reply(TURNS[1]))
    expected = whole(bundled, tokenizer, conversation.turns[:-1], max_new_tokens=30)[0]
    assert again == expected.partition(stop)[0]


def test_characters_come_whole(model, tokenizer):
    emoji = tokenizer("# 日本 🎉 café").input_ids
    sampler = Sampler(do_sample=False, forced_tokens=dict(enumerate(emoji)))
    conversation = Conversation(model, tokenizer, max_new_tokens=len(emoji), sampler=sampler)
    pieces = list(conversation.reply(TURNS[0]))
    assert "".join(pieces) == "# 日本 🎉 café"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len(pieces) > 4


def test_a_conversation_that_another_one_overtakes_keeps_no_cache_of_it(model, bundled, tokenizer):
    first = Conversation(model, tokenizer, max_new_tokens=20)
    second = first.fork()
    begun = first.reply(TURNS[0])
    next(begun)
    list(second.reply(TURNS[1]))
    with pytest.raises(RuntimeError, match="another generation"):
        list(begun)
    assert first.cache is None
    answer = "".join(first.reply(TURNS[2]))
    assert answer == whole(bundled, tokenizer, first.turns[:-1], max_new_tokens=20)[0]


def test_what_cannot_be_used_is_said(bundled, tokenizer):
    with pytest.raises(ValueError, match="has no chat template.*tokenizer.chat_template"):
        Conversation(bundled)
    with pytest.raises(ValueError, match="tokenizer=None: expected the model's tokenizer"):
        Conversation(bundled.model)
    with pytest.raises(ValueError, match="when_full='drop': expected 'refuse' or 'forget'"):
        Conversation(bundled, tokenizer, when_full="drop")
    with pytest.raises(ValueError, match="max_new_tokens=0: expected an int of 1 or more"):
        Conversation(bundled, tokenizer, max_new_tokens=0)
    with pytest.raises(ValueError, match="turns=3: expected an int from 0 to 0"):
        Conversation(bundled, tokenizer).fork(3)


def test_turns_that_a_template_refuses_are_said_in_one_line(bundled, tokenizer):
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ValueError, match=r"^the chat template refuses these turns: System role not supported\.$"):
        list(Conversation(bundled, strict, system="be short").reply(TURNS[0]))
