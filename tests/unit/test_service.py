"""What a push and a pull mean, whatever transport they came by."""

import threading

import numpy as np
import pytest

from tests.server_rig import make_service
from tests.store_rig import EPOCH, make_push, make_store, ones


@pytest.fixture
def service():
    return make_service(make_store())


def test_push_without_a_wish_brings_no_model(service):
    answer, model = service.push(make_push(), ones(), out=ones())
    assert (answer.status, answer.version, model) == ("applied", 1, None)


def test_push_and_answer_may_share_memory(service):
    buffer = service.buffer()
    buffer[...] = 0.25
    answer, model = service.push(make_push(want_model=True), buffer, out=buffer)
    assert answer.status == "applied"
    assert model.weights is buffer
    assert np.all(buffer == 0.75)


def test_pull_of_what_is_known_copies_nothing(service):
    out = ones(value=5.0)
    assert service.pull((EPOCH, 0), out) is None
    assert np.all(out == 5.0)
    assert service.pull((EPOCH - 1, 0), out).version == 0
    assert np.all(out == 1.0)


def test_target_is_pulled_by_its_own_version(service):
    service.push(make_push(), ones(), out=ones())
    assert service.pull((EPOCH, 0), ones(), target=True) is None
    assert np.all(service.pull(None, ones(), target=True).weights == 1.0)


def test_each_thread_has_one_buffer_of_its_own(service):
    others = []
    thread = threading.Thread(target=lambda: others.append(service.buffer()))
    thread.start()
    thread.join()
    assert service.buffer() is service.buffer()
    assert not np.shares_memory(others[0], service.buffer())
    assert others[0].shape == (service.store.layout.size,)
