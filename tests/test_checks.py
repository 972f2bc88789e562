"""What counts as a whole number, for all arguments that are one."""

import numpy as np
import pytest
import torch

from decodeloop.checks import check_choice, check_count, check_dense, given_path, is_count, is_real, shown


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


def test_a_message_shows_a_value_in_one_short_line():
    for value in ("x" * 999, "a\nb", list(range(999)), torch.ones(9, 9, 9), [torch.ones(3, 3)], np.ones((3, 3))):
        assert "\n" not in shown(value)
        assert len(shown(value)) <= 80


def test_numbers_are_finite_and_no_booleans():
    assert all(map(is_real, (0, -1.5, np.float32(2), np.int64(3))))
    assert not any(map(is_real, (True, float("nan"), float("inf"), 10**400, "1", None, torch.tensor(1.0))))


@pytest.mark.parametrize("value", [True, np.True_])
def test_a_choice_is_given_back(value):
    assert check_choice("flag", value, True, False) is True
    assert type(check_choice("bits", np.int64(4), 8, 4)) is int


@pytest.mark.parametrize("value", [1, "True", None, torch.tensor(True), torch.ones(2), np.ones(2), object()])
def test_nothing_equal_to_a_choice_is_one(value):
    with pytest.raises(ValueError, match="^flag=.*: expected True or False.$"):
        check_choice("flag", value, True, False)


@pytest.mark.parametrize("value", [None, "", b"x", "\0", 3, ["x"]])
def test_what_is_no_path_is_refused(value):
    with pytest.raises(ValueError, match="^path=.*: expected the path of a file.$"):
        given_path("path", value)


@pytest.mark.parametrize("tensor", [torch.ones(2, device="meta"), torch.ones(2).to_sparse()])
def test_a_tensor_without_numbers_to_read_is_refused(tensor):
    with pytest.raises(ValueError, match="^ids .*: expected a dense tensor"):
        check_dense("ids", tensor)
