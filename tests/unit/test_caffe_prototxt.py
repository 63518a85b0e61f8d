import resource
import subprocess
import sys
import time

import pytest
from caffe.errors import CaffeError, CaffeFileError
from caffe.proto.caffe_pb2 import ClipParameter, FillerParameter, NetParameter
from caffe.prototxt import parse_text, read_net, read_solver
from hypothesis import given
from hypothesis import strategies as st


def test_a_minus_sign_may_stand_apart():
    assert parse_text("value: - 2 min: -  .5", FillerParameter()).value == -2


@pytest.mark.parametrize("text", ['name: "a - 2"', "name: 'a - 2' # - 3\n"])
def test_strings_and_comments_stay(text):
    assert parse_text(text, NetParameter()).name == "a - 2"


def test_an_error_names_source_and_line(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('name: "n"\nfoo: 3\n')
    with pytest.raises(CaffeError, match=r"net.prototxt.*2:1.*foo"):
        read_net(path)


def test_bytes_that_are_no_utf8_are_latin_1(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes('# bloß\nname: "é'.encode() + b'\xe9" # \xb7\n')
    assert read_net(path).name == "éé"


@pytest.mark.parametrize("number", ["2", "- 2", "-\n2", "-# two\n2", "-2.f", "-2F", "- 20e-1"])
def test_numbers_that_the_parser_of_caffe_takes(number):
    assert abs(parse_text(f"value: {number} type: 'a+1_0'", FillerParameter()).value) == 2


@pytest.mark.parametrize(
    "text",
    [
        *(f"value: {x}" for x in ("+2", "1_0", "2.ff", "inff", "08", "00.5", "0x1", "1e", "--2")),
        *(f"sparse: {x}" for x in ("+2", "1_0", "0b1", "0o7", "08", "2f", "2.")),
        r'type: "\q"',
        'type:\u00a0"x"',
    ],
)
def test_what_the_parser_of_caffe_refuses(text):
    with pytest.raises(CaffeError, match=r"the text is not .*1:"):
        parse_text(text, FillerParameter())


def takes_as_float(text):
    """Return whether protobuf's C++ tokenizer and parser take the text as a float's value."""
    rest = text.removeprefix("-")
    whole = len(rest) - len(rest.lstrip("0123456789"))
    if whole > 1 and rest[0] == "0":  # octal, which is for integers
        return False
    rest, digits = rest[whole:], whole
    if rest.startswith("."):
        fraction = len(rest) - len(rest[1:].lstrip("0123456789")) - 1
        rest, digits = rest[1 + fraction :], digits + fraction
    if not digits:
        return False
    if rest[:1] in ("e", "E"):
        rest = rest[2:] if rest[1:2] in ("+", "-") else rest[1:]
        if not rest[:1].isdigit():
            return False
        rest = rest.lstrip("0123456789")
    return rest in ("", "f", "F")


@given(st.text("01.eEfFx+-_8", min_size=1, max_size=8))
def test_floats_are_those_of_the_tokenizer_of_caffe(text):
    try:
        parse_text(f"value: {text}", FillerParameter())
    except CaffeError:
        assert not takes_as_float(text)
    else:
        assert takes_as_float(text)


def test_an_error_before_parsing_names_the_line(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('name: "n"  # +1\nlayer {\n  name: +1\n')
    with pytest.raises(CaffeError, match=r"net.prototxt.*3:9.*\+"):
        read_net(path)


def test_required_fields_are_missed():
    with pytest.raises(CaffeError, match="required max"):
        parse_text("min: 0", ClipParameter())


@pytest.mark.parametrize(
    "text",
    [
        "'\\" * 50_000,  # unclosed: once it was a minute
        'name: "' + "\\\\" * 500_000 + '"',  # closed: once it was hours
        'name: "' + "x" * 100_000 + '"',
        "name: 1" + "9" * 4_000_000,  # once a gigabyte
        "layer {" * 500_000,
        "input_dim: [" * 300_000,
        "name: -" + " " * 500_000,
        "\0" * 4_000_000,
        '"' * 1_000_000,
        "name:" + "x" * (1 << 22),
    ],
)
def test_hostile_texts_are_refused_at_once(tmp_path, text):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CaffeError, match=r"net\.prototxt") as error:
        read_net(path)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10
    assert str(error.value).isprintable()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CaffeFileError, match="nope"):
        read_solver(tmp_path / "nope")


def test_reading_prototxt_needs_no_torch():
    code = (
        "import sys, caffe; from caffe import prototxt, net_spec, io, schedules, updates;"
        "caffe.proto.caffe_pb2.NetParameter; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
