"""Log, token and port: what surrounds the server, and each mistake in one line."""

import logging
import socket
import ssl

import pytest
from param_server import process
from param_server.errors import UserMistake


@pytest.fixture
def root_logger():
    """The root logger, left as it was found."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def test_log_goes_to_its_file(tmp_path, root_logger):
    process.start_log(tmp_path / "logs")
    logging.getLogger("param_server.x").info("hello")
    assert "param_server.x: hello" in (tmp_path / "logs/param-server.log").read_text()


def test_log_that_cannot_be_written_is_a_mistake(tmp_path, root_logger):
    (tmp_path / "logs").write_text("")
    with pytest.raises(UserMistake, match="cannot write the log"):
        process.start_log(tmp_path / "logs")


def test_token_comes_from_the_file_then_the_environment_then_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_TOKEN", "from-environment")
    (tmp_path / "token").write_text("from-file\n")
    assert process.token(tmp_path / "token") == "from-file"
    assert process.token(None) == "from-environment"
    monkeypatch.delenv("DDQ_TOKEN")
    assert process.token(None) != process.token(None)
    assert len(process.token(None)) >= 32


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", "ü".encode(), b"\xff"])
def test_token_that_is_none_is_a_mistake(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UserMistake, match="--token-file"):
        process.token(tmp_path / "token")


def test_token_file_that_is_missing_is_a_mistake(tmp_path):
    with pytest.raises(UserMistake, match="No such file"):
        process.token(tmp_path / "nothing")


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_taken_port_is_a_mistake_that_names_its_holder(taken):
    with pytest.raises(UserMistake, match=rf"port {taken} is taken( by .* \(process \d+\))?;"):
        process.bind("127.0.0.1", taken)


def test_server_that_is_given_a_certificate_speaks_https():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = process.bind("127.0.0.1", 0, tls=context)
    server.server_close()
    assert (server.tls, server.url) == (context, f"https://127.0.0.1:{server.port}")


def test_first_free_port_is_used_where_none_was_asked_for(taken, monkeypatch):
    monkeypatch.setattr(process, "DEFAULT_PORT", taken)
    server = process.bind("localhost", None)
    server.server_close()
    assert taken < server.port < taken + 100
    assert server.host == "127.0.0.1"


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_host_that_is_not_ours_is_a_mistake(host):
    with pytest.raises(UserMistake, match=f"cannot bind to {host}"):
        process.bind(host, 0)


def test_nobody_reading_is_no_failure():
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    process.say("hello", to=Gone())
