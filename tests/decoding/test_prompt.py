"""What a decoder refuses to continue, and what it says then."""

import pytest
import torch

from decodeloop.decoding.prompt import check_prompt


def test_positions_count_each_rows_own_tokens():
    prompt = check_prompt(torch.ones(2, 4, dtype=torch.int64), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]))
    assert prompt.positions(4, 4).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert prompt.positions(6, 2).tolist() == [[4, 5], [2, 3]]
    assert prompt.mask(6).tolist() == [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]


def test_int32_ids_and_boolean_masks_are_taken():
    prompt = check_prompt(torch.ones(1, 2, dtype=torch.int32), torch.ones(1, 2, dtype=torch.bool))
    assert prompt.input_ids.dtype == prompt.attention_mask.dtype == torch.int64


IDS = torch.tensor([[5, 6, 7]])


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), {}, r"shape \[1, 0\]: the prompt is empty"),
        (torch.zeros(0, 3, dtype=torch.int64), {}, r"shape \[0, 3\]: the prompt is empty"),
        (IDS[0], {}, r"shape \[3\]: expected \[batch, length\]"),
        (IDS.float(), {}, "dtype torch.float32: expected integers"),
        ([[1, 2]], {}, "input_ids is a list: expected an integer tensor"),
        (IDS, {"max_new_tokens": -1}, "max_new_tokens=-1: expected an int of 0 or more"),
        (IDS, {"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        (IDS, {"vocab_size": 7}, "token id 7, outside 0 to 6, the model's vocabulary"),
        (IDS - 6, {}, "token id -1, outside 0 or more"),
        (IDS, {"attention_mask": torch.ones(1, 2)}, "dtype torch.float32"),
        (IDS, {"attention_mask": torch.ones(1, 2, dtype=torch.int64)}, r"shape \[1, 2\] and input_ids \[1, 3\]"),
        (IDS, {"attention_mask": torch.tensor([[0, 0, 0]])}, "all zeros in row 0"),
        (IDS, {"attention_mask": torch.tensor([[1, 1, 0]])}, "padding to the right of a token.*padding_side"),
        (IDS, {"attention_mask": torch.tensor([[1, 0, 1]])}, "row 0 has padding to the right"),
        (IDS, {"attention_mask": torch.tensor([[0, 1, 2]])}, r"holds \[0, 1, 2\]: expected 0 \(padding\) and 1"),
        (IDS, {"max_positions": 8, "max_new_tokens": 6}, "need 9 positions, and the model has 8.*at most 5 new tokens"),
    ],
)
def test_bad_prompts_are_named(ids, options, message):
    mask = options.pop("attention_mask", None)
    with pytest.raises(ValueError, match=message):
        check_prompt(ids, mask, **options)
