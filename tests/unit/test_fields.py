"""Each field of a JSON object is checked where it is taken."""

import math

import pytest
from param_server.errors import BadRequest
from param_server.fields import Fields, decode_object


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


@pytest.mark.parametrize("value", [None, math.inf, math.nan, "1", True, 10**400, -1.0])
def test_number_that_must_be_finite(value):
    assert Fields({"n": 2}).finite_number("n") == 2.0
    assert Fields({"n": -2}).finite_number("n") == -2.0
    with pytest.raises(BadRequest, match=r"'n' is .*, expected a finite number from 0"):
        Fields({"n": value}).finite_number("n", at_least=0.0)


def test_one_of_a_few_texts_may_have_a_default():
    assert Fields({"c": "x"}).one_of("c", ("x", "y")) == "x"
    assert Fields({}).one_of("c", ("x", "y"), default="y") == "y"
    for document in ({}, {"c": "z"}, {"c": None}, {"c": ["x"]}):
        with pytest.raises(BadRequest, match="expected one of x, y"):
            Fields(document).one_of("c", ("x", "y"))


@pytest.mark.parametrize("value", ["", "x" * 257, "\ud800"])
def test_text_has_bounds_and_can_be_written(value):
    with pytest.raises(BadRequest, match="a text of 1 to 256 characters"):
        Fields({"t": value}).text("t", at_least=1)


def test_shapes_have_names():
    fields = Fields({"e": [["conv1/0", [2, 3]]]})
    assert fields.shapes("e") == [("conv1/0", [2, 3])]
    assert fields.shapes("missing") == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"\xff", b'{"a": NaN}', b"[" * 5000])
def test_only_json_objects_are_decoded(text):
    with pytest.raises(BadRequest, match=r"expected (a )?JSON"):
        decode_object(text)
    assert decode_object(b'{"a": 1}') == {"a": 1}


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
