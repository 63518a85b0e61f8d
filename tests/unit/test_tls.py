"""TLS: what a server can be started with, whom a client trusts, and what it says if not."""

import contextlib
import shutil
import socket
import ssl

import pytest
from param_server.client import Client
from param_server.errors import BadRequest, ServerUnreachable, Untrusted, UserMistake
from param_server.tls import client_context, handshake_failure, server_context

from tests.server_rig import TOKEN, running
from tests.store_rig import make_store
from tests.tls_rig import Authority


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder):
    return Authority(folder)


@pytest.fixture(scope="module")
def files(authority):
    return authority.sign("127.0.0.1", "localhost")


@contextlib.contextmanager
def client_of(files, ca, *, address="127.0.0.1"):
    """Yield a client of a server with these files; it trusts ``ca``, None: speaks plain HTTP."""
    pauses = []
    with running(make_store(), tls=server_context(*files) if files else None) as service:
        port = service.server.port
        client = Client(
            f"{address}:{port}", TOKEN, run="r1", worker="w0", tls_ca=ca, sleep=pauses.append
        )
        yield client
        client.close()
    assert pauses == []  # nothing of this is tried again


def test_no_files_are_no_tls():
    assert server_context(None, None) is None


def test_key_may_be_in_the_certificates_file(folder, files):
    both = folder / "both.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    assert server_context(both, None).minimum_version == ssl.TLSVersion.TLSv1_2


def test_key_without_a_certificate_is_a_mistake(files):
    with pytest.raises(UserMistake, match="--tls-cert is needed too"):
        server_context(None, files.key)


@pytest.mark.parametrize(
    ("swap", "said"),
    [
        ({"cert": "nothing.pem"}, "--tls-cert .*nothing.pem: No such file or directory"),
        ({"key": "nothing.pem"}, "--tls-key .*nothing.pem: No such file or directory"),
        ({"key": "."}, "--tls-key .*: Is a directory"),
        ({"cert": "empty.pem"}, "--tls-cert .*empty.pem: it holds no certificate"),
        ({"key": "empty.pem"}, "--tls-key .*empty.pem: it holds no private key"),
        ({"cert": "broken.pem"}, "--tls-cert .*broken.pem, --tls-key .*-key.pem: "),
        ({"cert": "authority.pem"}, "--tls-key .*-key.pem is not the key of --tls-cert"),
    ],
)
def test_file_that_does_not_do_is_a_mistake_that_names_it(folder, files, swap, said):
    (folder / "empty.pem").write_text("nothing\n")
    content = files.cert.read_text().splitlines()
    (folder / "broken.pem").write_text("\n".join([content[0], "!!!", *content[3:]]))
    given = {**files._asdict(), **{name: folder / file for name, file in swap.items()}}
    with pytest.raises(UserMistake, match=said) as caught:
        server_context(**given)
    assert "\n" not in str(caught.value)


def test_encrypted_key_is_a_mistake_and_nobody_is_asked(authority):
    with pytest.raises(UserMistake, match=r"--tls-key .*-key.pem: it is encrypted"):
        server_context(*authority.sign("127.0.0.1", password=b"secret"))


@pytest.mark.parametrize(
    ("name", "said"), [("none.pem", "No such file"), ("empty.pem", "it holds no certificate")]
)
def test_authority_that_cannot_be_read_is_a_mistake(tmp_path, name, said):
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(UserMistake, match=f"--tls-ca .*{name}: {said}"):
        Client("box:1", "tok", tls_ca=tmp_path / name)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_server_that_the_authority_vouches_for_is_trusted(authority, files, address):
    with client_of(files, authority.file, address=address) as client:
        assert client.pull().version == 0
        assert client.pull((7, 0)) is None


def test_servers_own_certificate_is_enough(files):
    with client_of(files, files.cert) as client:
        assert client.pull().version == 0


def test_another_authority_is_one_clear_line(tmp_path, files):
    other = Authority(tmp_path, "other").file
    with (
        client_of(files, other) as client,
        pytest.raises(Untrusted, match=r"127.0.0.1:\d+ is not vouched for by .*other.pem: \w+"),
    ):
        client.pull()


def test_wrong_name_is_said_with_the_right_ones(authority):
    with (
        client_of(authority.sign("box.example", "10.0.0.1"), authority.file) as client,
        pytest.raises(Untrusted, match=r"is for box.example, 10.0.0.1, not for 127.0.0.1$"),
    ):
        client.pull()


def test_wrong_name_of_a_host_is_said_as_it_was_written(authority):
    files = authority.sign("127.0.0.1")
    with (
        client_of(files, authority.file, address="localhost") as client,
        pytest.raises(Untrusted, match=r"at localhost:\d+ is for 127.0.0.1, not for localhost$"),
    ):
        client.pull()


@pytest.mark.parametrize(("begins", "said"), [(-9, "has expired"), (5, "is not valid yet")])
def test_certificate_out_of_its_time_is_one_clear_line(authority, begins, said):
    with (
        client_of(authority.sign("127.0.0.1", begins=begins), authority.file) as client,
        pytest.raises(Untrusted, match=said),
    ):
        client.pull()


def test_plain_client_at_a_tls_server_is_told_what_to_add(files):
    with client_of(files, None) as client, pytest.raises(BadRequest, match="give --tls-ca"):
        client.pull()


def test_tls_client_at_a_plain_server_is_told_what_to_leave_out(authority):
    with (
        client_of(None, authority.file) as client,
        pytest.raises(Untrusted, match="does not speak TLS: leave out --tls-ca"),
    ):
        client.pull()


def test_server_that_hangs_up_in_the_handshake_is_unreachable_not_untrusted(authority):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up(_pause_s):
            listener.accept()[0].close()

        client = Client(
            f"127.0.0.1:{listener.getsockname()[1]}", TOKEN, tls_ca=authority.file, timeout_s=0.2,
            retry_s=0.5, sleep=hang_up,
        )  # fmt: skip
        with pytest.raises(ServerUnreachable):
            client.pull()


def test_handshakes_error_is_found_however_it_is_wrapped():
    inner = ssl.SSLCertVerificationError("no")
    wrapped = ValueError("outer", KeyError(inner))
    assert handshake_failure(wrapped) is inner
    assert handshake_failure(ValueError("outer")) is None
    assert handshake_failure(ValueError(ssl.SSLEOFError())) is None


def test_client_context_trusts_nothing_else(files):
    context = client_context(files.cert)
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) <= 1


def test_certificate_that_vanished_is_a_mistake(tmp_path, files):
    copy = shutil.copy(files.cert, tmp_path / "cert.pem")
    client_context(copy)
    copy.unlink()
    with pytest.raises(UserMistake):
        client_context(copy)
