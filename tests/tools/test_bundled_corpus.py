"""What makes the bundled model: its exercises are right, its split is honest, its tokenizer cuts where prompts end."""

import ast
import random
import re
from textwrap import indent
from typing import ClassVar

import pytest
from bundled_model import corpus, exercises
from bundled_model.check import verdict, verdicts
from bundled_model.evaluation import ENDINGS, make_tasks
from bundled_model.exercises import BLANK_NAMES, PAGE_PROMPT, documents, split_of
from bundled_model.families import AREAS, FAMILIES
from bundled_model.tokenizer import EOS, train_tokenizer
from bundled_model.wordings import draw, every_sentence


def source(family, body, name=None, params=None):
    name, params = name or family.names[0], params or family.params[0]
    return f"{family.head(name, params)}\n{indent(body, '    ')}\n"


def plain(text):
    return re.sub(r"[^a-z0-9$]+", " ", text.lower()).strip()


@pytest.fixture(scope="module")
def corpus_sample():
    return list(documents("train", 20_000, 0, blank=corpus.BLANK_SHARE))


@pytest.fixture(scope="module")
def tokenizer(corpus_sample):
    return train_tokenizer([d.prompt + d.completion for d in corpus_sample[:3000]], 1024, 2048)


# Families


def test_there_are_families_of_every_sort():
    assert len(FAMILIES) >= 100
    assert set(AREAS.values()) >= {"numbers", "strings", "lists", "dictionaries", "classes", "recursion", "generators"}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_reference_is_right_for_every_name_and_parameter_list(family):
    for name in family.names:
        for params in family.params:
            assert verdict(family, source(family, family.reference(name, params), name, params), name) == ""


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_empty_answers_are_wrong(family):
    name, params = family.names[0], family.params[0]
    wrong = [
        "pass",
        "return None",
        "return 0",
        *(f"return {p}" for p in params),
        "raise ValueError",
        "this is no Python",
    ]
    for body in wrong:
        assert verdict(family, source(family, body), name) != "", body


class Slip(ast.NodeTransformer):
    """Makes the n-th slip that a body allows: another comparison, a sum for a difference, a constant off by one."""

    others: ClassVar = {
        ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.Lt, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
        ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add,
    }  # fmt: skip

    def __init__(self, n):
        self.n, self.seen = n, 0

    def generic_visit(self, node):
        super().generic_visit(node)
        is_number = isinstance(node, ast.Constant) and type(node.value) is int
        if is_number or type(node) in self.others:
            self.seen += 1
            if self.seen - 1 == self.n:
                return ast.Constant(node.value + 1) if is_number else self.others[type(node)]()
        return node


def test_slips_are_caught():
    caught = made = 0
    for family in FAMILIES.values():
        text = source(family, family.reference(family.names[0], family.params[0]))
        for n in range(2):
            slip = Slip(n)
            changed = ast.unparse(ast.fix_missing_locations(slip.visit(ast.parse(text))))
            if slip.seen > n:
                made += 1
                caught += bool(verdict(family, changed, family.names[0], seconds=0.1))
    assert made > 200
    assert caught / made > 0.9


def test_no_name_belongs_to_two_families():
    names = [name for family in FAMILIES.values() for name in family.names]
    assert len(names) == len(set(names))
    assert not set(names) & set(BLANK_NAMES)


# Checking


def test_a_check_survives_what_a_model_may_write():
    family = FAMILIES["is_even"]
    right = source(family, "return $1 % 2 == 0".replace("$1", "n"))
    endless = source(family, "while True:\n    try:\n        pass\n    except Exception:\n        pass")
    exits = source(family, "import os\nos._exit(0)")
    greedy = source(family, "return bool([0] * 10 ** 12)")
    answers = [(family.key, text, "is_even") for text in (right, endless, exits, greedy, right)]
    found = verdicts(answers)
    assert [bool(wrong) for wrong in found] == [False, True, True, True, False]


def test_a_printing_function_must_print_and_a_generator_must_yield():
    printing, yielding = FAMILIES["print_numbers"], FAMILIES["yield_squares"]
    assert verdict(printing, source(printing, "return list(range(1, n + 1))"), printing.names[0])
    assert verdict(yielding, source(yielding, "return [i * i for i in range(1, n + 1)]"), yielding.names[0])


def test_true_is_not_one():
    family = FAMILIES["is_even"]
    assert verdict(family, source(family, "return 1 - n % 2"), family.names[0])


# The split


def test_no_held_out_wording_can_be_spelled_by_another_template():
    owners = {}
    for family in FAMILIES.values():
        assert len(family.held_out) >= 2
        assert len(family.wordings) >= 4
        for template in family.wordings:
            for text in every_sentence(template):
                owners.setdefault(re.sub(r"\s", "", text), []).append((family.key, template))
    for family in FAMILIES.values():
        for template in family.held_out:
            spelled = [text for text in every_sentence(template) if re.sub(r"\s", "", text) in owners]
            assert not spelled, f"{family.key}: {spelled[0]!r} is held out and in the corpus"


def test_the_corpus_holds_nothing_that_is_held_out(corpus_sample):
    assert {split_of(document.exercise) for document in corpus_sample} == {"train"}
    held_out = {
        (e.name, e.template, e.params)
        for split in ("validation", "test", "validation_wording", "test_wording")
        for e in (document.exercise for document in documents(split, 2000, 0))
    }
    assert not held_out & {(d.exercise.name, d.exercise.template, d.exercise.params) for d in corpus_sample}
    corpus_prompts = {document.prompt for document in corpus_sample}
    assert not corpus_prompts & {task.prompt for task in make_tasks() if task.kind != "page"}


def test_the_prompt_of_the_pages_is_held_out():
    found = exercises.combinations_of(FAMILIES[exercises.PAGE_FAMILY])
    (combination,) = [c for c, split in found.items() if split == "page"]
    assert combination[0] == "print_prime"
    assert combination[2] == ("n",)
    others = list(documents("train", 3000, 5, keys=["print_primes"]))
    assert others
    for document in others:
        if "print_prime(n" in document.prompt:
            assert not re.search(r"print all primes between 1 and n\b", plain(document.prompt))


def test_a_seed_fixes_the_corpus():
    def first(seed):
        return [document.prompt + document.completion for document in documents("train", 300, seed)]

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_documents_are_proven_before_they_enter(monkeypatch):
    pairs = corpus.exercise_texts("train", 400, 0)
    assert len(pairs) > 390
    monkeypatch.setattr(corpus, "PROVEN", set())
    document = next(documents("train", 1, 0, keys=["factorial"]))
    broken = exercises.Document(document.exercise, document.prompt, document.completion.replace("*=", "+="))
    with pytest.raises(ValueError, match=r"factorial.* is wrong"):
        corpus.prove(broken)


def test_every_split_has_exercises_of_every_family():
    for split in exercises.SPLITS[:-1]:
        keys = {document.exercise.family.key for document in documents(split, len(FAMILIES), 0)}
        assert keys == set(FAMILIES)


def test_the_evaluation_has_as_many_exercises_as_asked():
    kinds = [task.kind for task in make_tasks(300, 100)]
    assert (kinds.count("combinations"), kinds.count("wordings"), kinds.count("page")) == (300, 100, len(ENDINGS))


def test_a_missing_standard_library_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--stdlib"):
        corpus.stdlib_texts(tmp_path)


def test_a_drawn_wording_belongs_to_its_template():
    rng = random.Random(0)
    openings = r"^(this function|a function that|function that|write a function to) "
    template = "[return] the sum of [all|the] [elements] of $1[i]"
    for _ in range(50):
        sentence = re.sub(openings, "", draw(template, rng))
        assert sentence.endswith("of $1[i]")
        assert re.match(r"\w+", sentence)


# The tokenizer


ODD_TEXTS = ["", " ", "\n", "a", "   \n\t\r\n x", "naïve café", "😀 🇩🇪 日本語", "a\r\nb\rc", "x  =  1\n", EOS]
ODD_TEXTS += ["\x00\u2028\ufeff", "'''\"\"\"" * 3]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_text_comes_back(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text


def test_random_unicode_comes_back(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(
            chr(rng.choice((rng.randrange(32, 127), 10, 32, 9, rng.randrange(0xD7FF), 0x1F600))) for _ in range(40)
        )
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_prompt_is_a_prefix_in_tokens_wherever_it_ends(tokenizer, corpus_sample):
    """After the docstring, the newline, the indentation."""
    for document in corpus_sample[:500]:
        whole = tokenizer(document.prompt + document.completion).input_ids
        text = document.prompt + document.completion
        for match in re.finditer(r'\n[ ]*(?! )|\n|(?<=["\'])(?=\n)|(?<=:)(?=\n)', text):
            ids = tokenizer(text[: match.end()]).input_ids
            assert whole[: len(ids)] == ids, text[: match.end()]


def test_digits_and_newlines_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("2024") == list("2024")
    assert len(tokenizer("\n\n\n").input_ids) == 3
    assert len(tokenizer("\r\n").input_ids) == 2


def test_tokenizing_adds_nothing_and_pads_on_the_left(tokenizer):
    assert tokenizer.eos_token_id not in tokenizer(PAGE_PROMPT).input_ids
    batch = tokenizer(["a", PAGE_PROMPT], padding=True)
    assert batch.input_ids[0][0] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert set(batch) == {"input_ids", "attention_mask"}


def test_what_is_given_is_not_graded(tokenizer):
    stream = corpus.exercise_stream(tokenizer, [("def f():", "\n    return 1\n"), ("def g():", "\n    pass\n")])
    first = stream.tokens[: stream.starts[1]].tolist()
    graded = stream.graded[: stream.starts[1]].tolist()
    assert first[-1] == tokenizer.eos_token_id
    assert tokenizer.decode([t for t, g in zip(first, graded, strict=True) if g]) == f"\n    return 1\n{EOS}"


def test_library_rows_begin_where_a_line_is_not_indented(tokenizer):
    stream = corpus.stdlib_stream(tokenizer, ["import os\n\ndef f():\n    return 1\n\n\nclass A:\n    x = 1\n"])
    begun = [tokenizer.decode(stream.tokens[start:].tolist())[:5] for start in stream.starts]
    assert {"impor", "def f", "class"} <= set(begun)
    assert not any(text.startswith((" ", "\n")) for text in begun)
