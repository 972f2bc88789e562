"""Answers that follow a grammar of llguidance, as the page "Only valid answers" makes them, on every engine."""

import json

import pytest
import torch

import decodeloop
from decodeloop import Sampler

llguidance = pytest.importorskip("llguidance", reason="the extra grammar is not installed")
llguidance_hf = pytest.importorskip("llguidance.hf")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "count"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # else there may be any number of spaces
}


class Follows:
    def __init__(self, tokenizer, vocabulary, grammar):
        self.known, self.grammar, self.rows = llguidance_hf.from_tokenizer(tokenizer, vocabulary), grammar, []
        assert not llguidance.LLMatcher.validate_grammar(grammar, self.known)

    def __call__(self, input_ids, scores):
        if not self.rows:
            self.rows = [llguidance.LLMatcher(self.known, self.grammar) for _ in input_ids]
        else:
            for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
                assert row.is_stopped() or row.consume_token(token)
        masks = [torch.frombuffer(bytearray(row.compute_logit_bias()), dtype=torch.uint8) for row in self.rows]
        return scores.masked_fill(torch.stack(masks).to(scores.device) == 0, -torch.inf)


@pytest.fixture(params=["torch", "static", "dynamo", "fused"])
def loop(request, bundled, bundled_graphs):
    if request.param == "torch":
        return lambda ids, **options: decodeloop.generate(bundled.model, ids, **options)
    if request.param == "static":
        return decodeloop.TorchDecoder(bundled.model).generate
    return decodeloop.OnnxDecoder(bundled_graphs[request.param].path, device="cpu").generate


@pytest.mark.parametrize("do_sample", [False, True])
def test_every_row_follows_a_json_schema_and_gets_what_it_gets_alone(loop, bundled, do_sample):
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA))
    tokenizer, vocabulary = bundled.tokenizer, bundled.model.config.vocab_size
    prompts = ["def name(count):\n", '{"name":"x","count":1}\n{"name":"y","count":2}\n', "x = 1\n"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")

    def answer(ids, mask, seed):
        rule = Follows(tokenizer, vocabulary, grammar)
        sampler = Sampler(do_sample=do_sample, seed=seed, processors=[rule])
        tokens = loop(ids, attention_mask=mask, sampler=sampler, max_new_tokens=80)
        return tokenizer.batch_decode(tokens[:, ids.shape[1] :], skip_special_tokens=True)

    texts = answer(batch.input_ids, batch.attention_mask, [3, 4, 5])
    for row, text in enumerate(texts):
        said = json.loads(text)
        assert list(said) == ["name", "count"]
        assert len(said["name"]) <= 8
        assert said["count"] <= 99
        kept = batch.attention_mask[row].bool()
        assert answer(batch.input_ids[row, kept][None], None, [3 + row]) == [text]


def test_a_regular_expression_is_followed_to_its_end(loop, bundled):
    grammar = llguidance.LLMatcher.grammar_from_regex("[1-5] stars?")
    rule = Follows(bundled.tokenizer, bundled.model.config.vocab_size, grammar)
    ids = bundled.tokenizer("# A review\n", return_tensors="pt").input_ids
    tokens = loop(ids, sampler=Sampler(seed=0, processors=[rule]), max_new_tokens=30)[0, ids.shape[1] :]
    text = bundled.tokenizer.decode(tokens, skip_special_tokens=True)
    assert text in [f"{stars} star{s}" for stars in range(1, 6) for s in ("", "s")]
    assert tokens[-1] == bundled.tokenizer.eos_token_id
