"""Random bodies with a good token: each is answered as documented, and harms nothing.

The model is the same bit for bit unless the answer says ``applied``, and then it is what the
gradient makes of it; the next good push works; memory stays flat.  The short form is drawn anew in
no run (tests/conftest.py); the long form, marked slow, draws ten thousand.
"""

import contextlib
import gc
import http.client
import json
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from param_server.app import create_app

from tests.hostile_rig import gradient_of, judge, posts
from tests.route_rig import BEARER, HERE, post_push
from tests.server_rig import make_service, running
from tests.store_rig import make_push, make_store, ones, weights_of

SHORT, LONG = 600, 10_000
BY_SOCKET = 200
MEMORY_BOUND_BYTES = 12 << 20


class Target:
    """A server in this process, and a good worker of it."""

    def __init__(self):
        self.store = make_store(run="r1")
        self.app = create_app(make_service(self.store)).test_client()
        self.good_pushes = 0

    def post(self, path, body):
        """Post a body; return the verdict, empty if there is none."""
        response = self.app.post(path, data=body, headers=BEARER)
        return judge(path, body, (response.status_code, response.content_type, response.data))

    def check_good_push(self):
        """The next good push is applied."""
        before = weights_of(self.store)
        self.good_pushes += 1
        push = make_push(self.good_pushes, worker="good", version=self.store.version)
        response = post_push(self.app, push, ones(value=0.5))
        assert response.status_code == 200, response.data
        assert np.array_equal(weights_of(self.store), before - np.float32(0.5))


def check(target, path, body):
    before, version = weights_of(target.store), target.store.version
    verdict, expected = target.post(path, body), before
    if verdict == "applied":
        expected, version = before - gradient_of(body), version + 1
    assert weights_of(target.store).tobytes() == expected.tobytes()
    assert target.store.version == version
    target.store.check()
    target.check_good_push()
    return verdict


def check_status(target):
    """After all of that the pages can be shown; NaN and Infinity are no JSON."""
    text = target.app.get("/api/v1/status_data", headers=HERE).get_data(as_text=True)
    json.loads(text, parse_constant=pytest.fail)
    for page in ("/current_status", "/metrics"):
        assert target.app.get(page, headers=HERE).status_code == 200


def run(examples):
    target, verdicts = Target(), Counter()

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(posts)
    def each(post):
        verdicts[check(target, *post)] += 1

    each()
    check_status(target)
    # Bodies that are all refused at the first byte would prove little.
    assert verdicts["applied"] > 0
    assert 0.02 < (verdicts["applied"] + verdicts["duplicate"]) / examples < 0.5, verdicts


def test_random_bodies_are_answered_as_documented_and_harm_nothing():
    run(SHORT)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_random_bodies_are_answered_as_documented_and_harm_nothing():
    run(LONG)


def collect(count):
    bodies = []

    @settings(max_examples=count)
    @given(posts)
    def each(post):
        bodies.append(post)

    each()
    return bodies


def flat(count, times):
    """Post the same bodies again and again: the process must not grow."""
    target, bodies = Target(), collect(count)
    process = psutil.Process()
    for _ in range(2):  # fills what is bounded: windows, ledgers, allocators
        for body in bodies:
            target.post(*body)
    gc.collect()
    before = process.memory_info().rss
    for _ in range(times):
        for body in bodies:
            target.post(*body)
    gc.collect()
    assert process.memory_info().rss - before < MEMORY_BOUND_BYTES
    target.check_good_push()


def test_memory_stays_flat():
    flat(200, 5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_stays_flat_for_long():
    flat(1000, 50)


@pytest.fixture(scope="module")
def service():
    with running(make_store(run="r1")) as service:
        yield service


def test_random_bodies_on_a_real_connection(service):
    """One connection for all of them as long as it lasts: a body must not spill into the next."""
    store = service.store
    connection = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=10)

    @settings(max_examples=BY_SOCKET)
    @given(posts)
    def each(post):
        path, body = post
        before = weights_of(store)
        connection.request("POST", path, body=body, headers=BEARER)
        answer = connection.getresponse()
        content = answer.read()
        response = answer.status, answer.headers["Content-Type"], content
        is_applied = judge(path, body, response) == "applied"
        expected = before - gradient_of(body) if is_applied else before
        assert weights_of(store).tobytes() == expected.tobytes()

    with contextlib.closing(connection):
        each()
    store.check()


texts = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40)
headers = st.dictionaries(
    st.sampled_from(["If-None-Match", "DDQ-Dtype", "DDQ-Run", "DDQ-Worker", "Accept", "Range"]),
    texts | st.sampled_from(['"7-0"', '"7-target-0"', "*", "bfloat16", "r1", "bytes=0-1"]),
)
queries = st.sampled_from(
    ["", "?which=target", "?which=weights", "?which", "?which=\xff", "?a=%00"]
)


def test_pulls_with_any_headers_are_answered_as_documented():
    target = Target()

    @settings(max_examples=300)
    @given(headers, queries)
    def each(drawn, query):
        response = target.app.get(f"/api/v1/latest_model{query}", headers={**drawn, **BEARER})
        assert response.status_code in {200, 304, 400}

    each()
    target.store.check()
    target.check_good_push()
