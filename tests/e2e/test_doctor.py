"""`ddq.py --doctor` on real executors."""

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.timeout(200)]


def test_the_doctor_says_what_would_go_wrong_and_leaves_nothing(site):
    code, out, err = site.run(
        site.command("--doctor", "--game", "ddq/Snake-v0", "--server", "127.0.0.1:1")
    )
    assert (code, err) == (1, ""), out + err
    head, headings, executor, wrong, finding = out.splitlines()
    assert head == "A run on local[2,4], its server at 127.0.0.1:1:"
    assert headings.startswith("executor")
    assert "as here   yes," in executor
    assert wrong == "What would go wrong:"
    assert "does not reach 127.0.0.1:1 (ConnectionRefusedError" in finding
    assert not list(site.logs.glob("*snake*"))
    site.assert_nothing_left()
