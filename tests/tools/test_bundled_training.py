"""The bundled model's training and files, at a size that takes seconds."""

import json

import pytest
import torch
from bundled_model import corpus
from bundled_model.card import model_card
from bundled_model.evaluation import complete, evaluate, make_tasks
from bundled_model.exercises import PAGE_PROMPT, documents
from bundled_model.model import Shape, load_folder, make_model, save_folder
from bundled_model.tokenizer import train_tokenizer
from bundled_model.training import Plan, rate, rows_of, train

SHAPE = Shape(vocab_size=600, hidden_size=32, intermediate_size=64, layers=2, heads=2, positions=256)


@pytest.fixture(scope="module")
def texts():
    return [(d.prompt, d.completion) for d in documents("train", 1500, 0, keys=["sum_list", "is_even", "stack"])]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer([prompt + completion for prompt, completion in texts], SHAPE.vocab_size, SHAPE.positions)


@pytest.fixture(scope="module")
def trained(texts, tokenizer):
    stream = corpus.exercise_stream(tokenizer, texts)
    library = corpus.stdlib_stream(tokenizer, ["import os\n\nx = 1\n" * 50])
    torch.manual_seed(0)
    model = make_model(SHAPE, tokenizer)
    plan = Plan(steps=20, minutes=0.5, rows=8, length=64, warmup=2, validate_every=10, learning_rate=3e-3)
    streams = {"combinations": stream, "wordings": stream, "stdlib": library}
    return model, train(model, stream, library, streams, plan, "cpu")


@pytest.fixture(scope="module")
def folder(trained, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "bundled"
    save_folder(trained[0], tokenizer, {"README.md": "a card\n"}, path)
    return path


def test_training_lowers_the_losses_and_keeps_the_best(trained):
    outcome = trained[1]
    first, last = outcome.history[0], outcome.history[-1]
    assert last["combinations"] < first["combinations"] < 6.5
    assert (outcome.steps, outcome.best_step, outcome.stopped_by) == (20, 20, "steps")


def test_training_stops_on_validation_loss(texts, tokenizer):
    stream = corpus.exercise_stream(tokenizer, texts)
    plan = Plan(steps=50, minutes=0.5, rows=4, length=32, validate_every=1, patience=3, learning_rate=10.0, warmup=1)
    streams = {"combinations": stream, "wordings": stream, "stdlib": stream}
    outcome = train(make_model(SHAPE, tokenizer), stream, stream, streams, plan, "cpu")
    assert outcome.stopped_by == "validation loss"
    assert outcome.steps < 50


def test_what_is_saved_is_what_is_read(trained, tokenizer, folder):
    model, words = load_folder(folder)
    for name, tensor in trained[0].state_dict().items():
        assert torch.equal(tensor.half().float(), model.state_dict()[name])
    assert words(PAGE_PROMPT).input_ids == tokenizer(PAGE_PROMPT).input_ids
    assert model.generation_config.eos_token_id == words.eos_token_id
    assert model.generation_config.pad_token_id == words.pad_token_id != words.eos_token_id
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".md"}


def test_a_folder_that_is_too_large_does_not_replace_the_old_one(trained, tokenizer, folder):
    with pytest.raises(AssertionError, match="bytes, more than"):
        save_folder(trained[0], tokenizer, {"README.md": "x" * 12_000_000}, folder)
    assert (folder / "README.md").read_text() == "a card\n"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_completions_do_not_depend_on_the_batch(folder):
    model, words = load_folder(folder)
    prompts = ["def f(n):", PAGE_PROMPT, "class Stack:\n"]
    together = complete(model, words, prompts, batch=3)
    assert together == [complete(model, words, [prompt], batch=1)[0] for prompt in prompts]


def test_the_card_is_made_of_what_was_measured(trained, folder):
    model, words = load_folder(folder)
    figures, results = evaluate(model, words, make_tasks(3, 2)[:7])
    assert len(results) == 7
    assert json.loads(json.dumps(figures)) == figures
    keys = "layers hidden heads positions vocabulary weights_bytes folder_bytes exercises exercise_tokens families"
    keys += " parameters templates stdlib_files stdlib_tokens steps step_tokens seed best_step"
    words = "command device python torch transformers tokenizers date stdlib_python stopped_by"
    record = dict.fromkeys(keys.split(), 1234) | dict.fromkeys(words.split(), "told")
    record |= {"seconds": 1.0, "total_seconds": 2.0, "tokens_per_second": 3.0, "stdlib_share": 0.15}
    text = model_card(
        record | {"losses": trained[1].losses, "evaluation": figures | {"page completion": "\n"}}, PAGE_PROMPT
    )
    assert "$" not in text.replace("$1", "")
    assert f"| combinations | {figures['combinations']['right']} | 3 |" in text


def test_the_rate_ends_with_the_steps_or_the_minutes():
    plan = Plan(steps=1000, minutes=1.0, warmup=10)
    assert rate(plan, 0, 0.0) < rate(plan, 9, 0.0)
    assert rate(plan, 1000, 0.0) == pytest.approx(plan.learning_rate * plan.last_rate)
    assert rate(plan, 20, 60.0) == pytest.approx(plan.learning_rate * plan.last_rate)


def test_rows_begin_where_documents_do(texts, tokenizer):
    stream = corpus.exercise_stream(tokenizer, texts[:50])
    inputs, targets, graded = rows_of(stream, stream.starts[:5], 40)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert [tokenizer.decode(row).startswith(texts[i][0][:8]) for i, row in enumerate(inputs)] == [True] * 5
    assert not graded[:, 0].any()
