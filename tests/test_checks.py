"""What counts as a whole number, for all arguments that are one."""

import numpy as np
import pytest
import torch

from decodeloop.checks import check_count, is_count


@pytest.mark.parametrize("value", [0, 7, 2**70, np.int64(7), np.uint8(7), np.array([7])[0]])
def test_whole_numbers_are_given_back_as_plain_ints(value):
    assert is_count(value)
    found = check_count("n", value)
    assert type(found) is int
    assert found == value


@pytest.mark.parametrize(
    "value", [-1, True, np.True_, 1.0, np.float32(1), float("nan"), "1", None, [1], np.array(1), torch.tensor(1)]
)
def test_nothing_else_is(value):
    assert not is_count(value)
    with pytest.raises(ValueError, match="^n=.*: expected an int of 0 or more.$"):
        check_count("n", value)


def test_both_ends_of_the_range_belong_to_it():
    assert [value for value in range(6) if is_count(value, 2, 4)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "max_new_tokens=-1: expected an int of 0 or more."),
        ({"at_least": 2}, "max_new_tokens=-1: expected an int of 2 or more."),
        ({"at_most": 6}, "max_new_tokens=-1: expected an int from 0 to 6."),
        (
            {"at_most": 6, "note": "as there is room"},
            "max_new_tokens=-1: expected an int from 0 to 6, as there is room.",
        ),
    ],
)
def test_the_message_says_what_was_given_and_what_was_expected(limits, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_count("max_new_tokens", -1, **limits)
    assert str(caught.value) == message
