"""Each field of a JSON object is checked where it is taken."""

import math

import pytest
from param_server.errors import BadRequest
from param_server.fields import Fields


@pytest.mark.parametrize("document", [None, [], "x", 3])
def test_only_an_object_has_fields(document):
    with pytest.raises(BadRequest, match="expected a JSON object"):
        Fields(document)


def test_fields_are_taken_by_type():
    fields = Fields(
        {"t": "x", "f": True, "i": 3, "n": 2, "l": [1], "s": {"a": None}, "o": {"i": 1}}
    )
    assert fields.text("t") == "x"
    assert fields.flag("f") is True
    assert fields.integer("i", at_least=3) == 3
    assert fields.number("n") == 2.0
    assert fields.integers("l") == [1]
    assert fields.finite_numbers("l") == [1.0]
    assert math.isnan(fields.numbers_by_name("s")["a"])
    assert fields.nested("o").integer("i") == 1


def test_null_is_nan_where_a_number_may_be_missing():
    assert math.isnan(Fields({"n": None}).number("n"))


def test_refusal_names_field_value_and_expectation():
    with pytest.raises(BadRequest, match=r"field 'i' is -4, expected an integer from 0"):
        Fields({"i": -4}).integer("i")


def test_refusal_shows_little_of_a_long_value():
    with pytest.raises(BadRequest) as caught:
        Fields({"t": "x" * 10_000}).text("t")
    assert len(str(caught.value)) < 150


def test_expected_value_must_be_just_that():
    Fields({"kind": "push"}).expect("kind", "push")
    with pytest.raises(BadRequest, match="'kind' is missing, expected 'push'"):
        Fields({}).expect("kind", "push")
