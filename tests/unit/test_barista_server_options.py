"""The driver's options for its parameter server."""

import pytest
from param_server.options import parser as server_parser

from barista.config import ConfigError
from barista.driver import command_line, server_options
from tests.tls_rig import Authority


def parse(*arguments):
    return command_line.driver_parser().parse_args(arguments)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files to name, by relative paths."""
    monkeypatch.chdir(tmp_path)
    signed = Authority(tmp_path).sign("127.0.0.1")
    signed.cert.rename("cert.pem")
    signed.key.rename("key.pem")
    for name in ("empty.pem", "w.caffemodel"):
        (tmp_path / name).touch()
    return tmp_path


OWN = {
    "--staleness": "ssp:2",
    "--outliers": "4",
    "--lease": "5",
    "--durability": "acknowledged",
    "--keep": "3",
    "--stall-minutes": "9",
    "--tls-cert": "cert.pem",
    "--tls-key": "key.pem",
}


def test_what_is_typed_goes_on_to_the_server_as_the_server_reads_it(files):
    given = parse(*(part for pair in OWN.items() for part in pair))
    server_options.check(given)
    told = server_options.arguments(given)
    assert set(told) == set(OWN)
    config = server_parser().parse_args([str(p) for pair in told.items() for p in pair])
    assert (config.staleness, config.outliers, config.lease) == ("ssp:2", 4.0, 5.0)
    assert (config.durability, config.keep) == ("acknowledged", 3)
    assert config.stall_minutes == 9.0
    # The server may run in another folder.
    assert (config.tls_cert, config.tls_key) == (files / "cert.pem", files / "key.pem")


def test_what_is_not_typed_is_left_to_the_server():
    assert server_options.arguments(parse()) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--staleness", "ssp"], "ssp:S"),
        (["--staleness", "sometimes"], "'sometimes'"),
        (["--staleness", "reject:-1"], "reject:S"),
        (["--outliers", "many"], "standard deviations"),
        (["--lease", "-1"], "seconds"),
        (["--durability", "none"], "durability"),
        (["--keep", "0"], "keep"),
        (["--stall-minutes", "-1"], "minutes"),
        (["--server-port", "70000"], "65535"),
    ],
)
def test_a_value_that_cannot_work_is_one_line(capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments)
    line = capsys.readouterr().err
    assert (stopped.value.code, line.count("\n")) == (2, 1)
    assert arguments[0] in line
    assert said in line


@pytest.mark.parametrize("option", OWN)
def test_what_is_for_an_own_server_excludes_a_named_one(files, option):
    given = parse("--server", "127.0.0.1:9", option, OWN[option])
    with pytest.raises(ConfigError, match=f"^--server and {option} exclude each other"):
        server_options.check(given)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tls-key", "key.pem"], "--tls-cert is needed too"),
        (["--tls-ca", "cert.pem"], "--server or --tls-cert is needed too"),
        (["--tls-cert", "nowhere.pem"], "^--tls-cert nowhere.pem: No such file"),
        (["--tls-cert", "cert.pem"], "^--tls-key cert.pem: it holds no private key"),
        (["--tls-cert", "cert.pem", "--tls-key", "no.pem"], "^--tls-key no.pem: No such file"),
        (["--server", "h:1", "--tls-ca", "no.pem"], "^--tls-ca no.pem: No such file"),
        (["--server", "h:1", "--tls-ca", "empty.pem"], "^--tls-ca empty.pem: it holds no cert"),
        (["--weights", "none.caffemodel"], "^--weights none.caffemodel: there is no such file$"),
        (["--weights", "w.caffemodel", "--resume", "x"], "exclude each other"),
    ],
)
def test_what_cannot_be_meant_together_is_one_line(files, arguments, said):
    with pytest.raises(ConfigError, match=said):
        server_options.check(parse(*arguments))


def test_a_resumed_run_keeps_its_policies_unless_others_are_typed():
    earlier = {"staleness": "ssp:2", "outliers": 4.0, "durability": "acknowledged", "keep": 9}
    given = parse("--staleness", "accept")
    server_options.inherit(given, earlier)
    assert (given.staleness, given.outliers, given.durability) == ("accept", 4.0, "acknowledged")
    assert given.keep is None


def test_a_run_of_before_there_were_policies_has_none_to_keep():
    given = parse()
    server_options.inherit(given, {"rounds": 3})
    assert (given.staleness, given.durability) == (None, None)


def test_a_server_of_our_own_vouches_for_itself_unless_another_file_does(files):
    own = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    assert server_options.trusted(parse()) is None
    assert server_options.trusted(parse(*own)) == files / "cert.pem"
    named = parse(*own, "--tls-ca", "authority.pem")
    server_options.check(named)
    assert server_options.trusted(named) == files / "authority.pem"


def test_a_standing_server_will_do_only_where_nothing_asks_for_an_own_one():
    assert server_options.may_join(parse())
    assert server_options.may_join(parse("--server", "h:1", "--rounds", "3"))
    for arguments in (["--staleness", "accept"], ["--resume", "x"], ["--solver", "x"]):
        assert not server_options.may_join(parse(*arguments))
