"""The dashboard of a live training, as a browser shows it."""

import http.client
import itertools
import threading
from pathlib import Path

import pytest
from param_server import formats
from param_server.client import Client
from param_server.launch import start_embedded
from param_server.live import MOST_VIEWERS

import caffe
from barista.assembly import make_worker
from barista.learner import load_nets
from barista.outbox import Identity
from barista.rounds import RoundRequest
from tests import tiny
from tests.server_rig import running, until
from tests.store_rig import Clock, make_push, make_store, ones

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

TOKEN = "a token of the tests"
WORKER = "executor-17.a-host-with-a-long-name.of-a-cluster.internal/slot-3"
CONVOLUTION = """
layer { name: "conv1" type: "Convolution" bottom: "scaled" top: "conv1"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "Q_out" type: "InnerProduct" bottom: "conv1" top: "Q_out" loss_weight: 1
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def write_model(folder):
    """Write a small network that begins with a convolution; return net and solver."""
    net, solver = folder / "train_val.prototxt", folder / "solver.prototxt"
    net.write_text(tiny.MODEL[: tiny.MODEL.index('layer { name: "fc1"')] + CONVOLUTION)
    solver.write_text(tiny.SOLVER.format(net=net))
    return str(net), str(solver)


def start(folder, *arguments):
    """Start a server of its own process on the model in a folder."""
    return start_embedded(
        ["--snapshot-dir", str(folder / "snapshots"), "--game", "catch", *arguments],
        token=TOKEN,
        log_path=folder / "server.log",
        timeout_s=60,
    )


class Training:
    """A server and a worker that learns catch, a few dozen updates a second, until it ends."""

    def __init__(self, folder):
        net, solver = write_model(folder)
        self.server = start(folder, solver, "--port", "0", "--target-period", "50")
        self.base = f"http://{self.server.address}"
        self.client = Client(self.server.address, TOKEN, run="a-run", worker=WORKER)
        self.stop = threading.Event()
        caffe.set_num_threads(1)
        worker = make_worker(
            tiny.config(),
            game=tiny.Catch(8, seed=0),
            nets=load_nets(net, batch_size=16, num_envs=8),
            exchange=self,
            identity=Identity("a-run", WORKER, "first"),
        )
        request = RoundRequest(1, quota=100_000, deadline_s=300.0)
        self._thread = threading.Thread(target=worker.run_round, args=(request, self.stop))
        self._thread.start()

    def push(self, *arguments):
        """Push for the worker, and give others the processor."""
        self.stop.wait(0.02)
        return self.client.push(*arguments)

    def __getattr__(self, name):
        return getattr(self.client, name)

    def end(self):
        self.stop.set()
        self._thread.join(30)
        self.client.close()
        return self.server.stop(30)


@pytest.fixture(scope="module")
def training(browser, tmp_path_factory):
    training = Training(tmp_path_factory.mktemp("training"))
    yield training
    assert training.end() == 0


def text(page, selector):
    return page.inner_text(selector).strip()


def changes(page, expression, argument=None):
    """Wait until a JavaScript expression over `a` has another value; return both."""
    before = page.evaluate(f"a => {expression}", argument)
    page.wait_for_function(f"([a, before]) => ({expression}) !== before", arg=[argument, before])
    return before, page.evaluate(f"a => {expression}", argument)


def test_curves_move(training, visit):
    page = visit(training.base).open()
    for column in ("return_mean", "loss", "updates_per_s", "epsilon"):
        line = f"[data-column={column}] .line"
        page.wait_for_selector(line, state="attached")
        changes(page, "document.querySelector(a).getAttribute('d')", line)
    count = "document.querySelector(a).getAttribute('d').split('L').length"
    before, after = changes(page, count, "[data-column=loss] .line")
    assert after > before, "points are added"
    assert page.evaluate("document.querySelectorAll('[d*=NaN], [cx*=NaN], [x1*=NaN]').length") == 0


def test_numbers_and_histogram_move(training, visit):
    page = visit(training.base).open()
    for selector in ("[data-key=version]", "[data-key=steps]", "[data-key=uptime_s]"):
        changes(page, "document.querySelector(a).textContent", selector)
    before, after = changes(page, "document.querySelector('#staleness td.n').textContent")
    assert int(after.replace(",", "")) > int(before.replace(",", ""))
    widths = "Array.from(document.querySelectorAll('#staleness i'), (bar) => bar.offsetWidth)"
    assert max(page.evaluate(widths)) > 0
    assert page.title().startswith("v")
    assert page.title().endswith(" · catch")


def test_workers_and_layers_are_filled_in(training, visit):
    page = visit(training.base).open()
    page.wait_for_selector("#workers tbody tr")
    assert text(page, "#workers tbody th") == WORKER
    assert text(page, "#workers .mark") == "live"
    assert text(page, "#workers-note") == "1 live"
    changes(page, "document.querySelector('#workers [data-cell=pushes]').textContent")
    assert page.locator("#layers tbody tr").count() == 4
    assert text(page, "#layers tbody th >> nth=0") == "conv1/0"
    page.wait_for_selector("#layers tr:not([data-pace='']) .track i")
    assert text(page, "#layers .track small >> nth=0") in {"slow", "healthy", "fast"}


def test_filters_are_drawn(training, visit):
    page = visit(training.base).open()
    page.wait_for_function("document.getElementById('filters-note').textContent !== ''")
    colours = page.evaluate("""() => {
        const canvas = document.querySelector("#filters canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
    }""")
    assert colours > 8
    assert "8 of 3 × 3" in text(page, "#filters-note")


def test_axis_can_be_updates_and_values_are_read_out(training, visit):
    page = visit(training.base).open()
    page.wait_for_selector("[data-column=loss] .line", state="attached")
    page.check("[name=axis][value=version]", force=True)
    page.hover("[data-column=loss] svg")
    assert "at update" in text(page, "[data-column=loss] .last")
    page.mouse.move(0, 0)
    assert "at update" not in text(page, "[data-column=loss] .last")
    page.focus("[data-column=epsilon] svg")
    page.keyboard.press("ArrowLeft")
    assert "at update" in text(page, "[data-column=epsilon] .last")


def test_snapshot_is_listed_and_downloaded(training, visit):
    page = visit(training.base).open(accept_downloads=True)
    written = training.client.snapshot()
    link = f"#snapshots a[href='/snapshots/{written['version']}/model.caffemodel']"
    page.wait_for_selector(link)
    with page.expect_download() as download:
        page.click(link)
    assert download.value.suggested_filename == f"{written['version']}-model.caffemodel"
    content = Path(download.value.path()).read_bytes()
    assert content == (Path(written["path"]) / "model.caffemodel").read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_never_scrolls_sideways(training, visit, scheme):
    page = visit(training.base).open(
        viewport={"width": 390, "height": 844}, color_scheme=scheme, is_mobile=True, has_touch=True
    )
    page.wait_for_selector("#workers tbody tr")
    page.wait_for_selector("[data-column=loss] .line", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("visualViewport.width") == 390, "nothing made the page zoom out"


def test_without_scripts_the_page_is_whole(training, visit):
    page = visit(training.base).open(wait_for=None, java_script_enabled=False)
    assert int(text(page, "[data-key=version]").replace(",", "")) >= 0
    assert page.is_visible("#staleness")
    assert not page.is_visible(".chart svg")
    assert not page.is_visible("#state")


def test_browser_and_server_write_numbers_alike(training, visit):
    # No value lies half-way between two that can be shown: there the two round differently.
    values = [0, 0.12, 0.7, 1, 12.34, 59.9, 999.4, 1234.6, 0.00123, 0.000456, 1e-9, 86_399, 1e7]
    kinds = ["0", "1", "general", "scientific", "percent", "duration", "sigmas"]
    cases = [(value, kind) for kind in kinds for value in values]
    cases += [
        (-value, kind) for kind in ("0", "1", "general", "scientific") for value in values[1:]
    ]
    cases += [(size, "size") for size in (0, 999, 1234, 6_760_000, 33_900_000_000)]
    cases += [
        (None, "general"), ([2, 3], "shape"), ({"return_mean": 1.5, "return_se": 0.25}, "score"),
        ({"number": 2, "credited": 3, "quota": 4}, "round"),
        ({"version": 1200, "path": "there", "lost_updates": 3000}, "resumed"),
    ]  # fmt: skip
    page = visit(training.base).open()
    shown = page.evaluate(
        """async (cases) => {
            const { show } = await import("/static/format.js");
            return cases.map(([value, kind]) => show(value, kind));
        }""",
        cases,
    )
    assert shown == [formats.show(value, kind) for value, kind in cases]
    ratios = [None, 0, 1e-7, 5e-5, 1e-3, 0.5, 3]
    paces = page.evaluate(
        """async (ratios) => {
            const { paceOf } = await import("/static/format.js");
            return ratios.map((ratio) => paceOf(ratio));
        }""",
        ratios,
    )
    for pace, expected in zip(paces, map(formats.pace_of, ratios), strict=True):
        assert pace == {"word": expected.word, "percent": pytest.approx(expected.percent)}


def test_one_viewer_too_many_still_sees_where_training_is(training, visit):
    connections = []

    def view():
        connection = http.client.HTTPConnection(training.server.address, timeout=20)
        connection.request("GET", "/events")
        response = connection.getresponse()
        if response.status != 200:  # kept open, it would be a stranger too many in the end
            connection.close()
            return False
        connections.append((connection, response))
        return True

    try:
        for _ in range(MOST_VIEWERS):
            until(view)  # the pages of other tests may be leaving still
        watch = visit(training.base)
        page = watch.open()
        assert text(page, "#state") == "live, every few seconds"
        changes(page, "document.querySelector('[data-key=version]').textContent")
        assert all("503" in complaint for complaint in watch.complaints)
        watch.complaints.clear()
    finally:
        for connection, response in connections:
            response.close()
            connection.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_alarms_and_the_workers_time_are_shown_as_they_come(visit, scheme):
    clock = Clock()
    store = make_store(clock=clock)

    def train(seconds, status, **stats):
        for _ in range(seconds):
            clock.now += 1
            value = 0.25 if status == "applied" else float("nan")
            push = make_push(next(sequence), version=store.version, stats=stats)
            for _ in range(3):
                assert store.apply(push, ones(value=value)).status == status
                push = make_push(next(sequence), version=store.version)
            service.live.read_status()

    sequence = itertools.count(1)
    with running(store) as service:
        page = visit(f"http://127.0.0.1:{service.server.port}").open(
            wait_for=None, viewport={"width": 390, "height": 844}, color_scheme=scheme
        )
        assert page.locator("#alarms li").count() == 0
        train(2, "applied", act_s=30.0, compute_s=15.0, wait_s=5.0)
        page.wait_for_function(
            "() => document.querySelector('.stages .share').textContent === '60 %'"
        )
        assert text(page, ".stages") == (
            "act 60 % 1 m 00 s\nplay the game\nsample 0 % 0.0 s\ndraw minibatches\n"
            "compute 30 % 30 s\ncompute gradients\nexchange 0 % 0.0 s\ntalk with the server\n"
            "wait 10 % 10 s\nwait for what is under way"
        )
        widths = page.evaluate(
            "Array.from(document.querySelectorAll('.split i'), (part) => part.offsetWidth)"
        )
        total = page.evaluate("document.querySelector('.split').clientWidth")
        assert [round(width / total, 2) for width in widths] == [0.6, 0, 0.3, 0, 0.1]
        colours = page.evaluate(
            """Array.from(document.querySelectorAll('.split i, .stages i'),
                (part) => getComputedStyle(part).backgroundColor)"""
        )
        assert len(set(colours)) == 5
        assert colours[:5] == colours[5:], "the bar's colours are those of the words"

        train(70, "rejected")
        page.wait_for_selector("#alarms [role=alert]")
        assert "rejected, most in this run as non-finite." in text(page, "#alarms [role=alert]")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        age = text(page, "#alarms small")
        train(5, "rejected")
        page.wait_for_function(
            "a => document.querySelector('#alarms small').innerText !== a", arg=age
        )
        train(200, "applied")
        page.wait_for_function("() => document.querySelectorAll('#alarms li').length === 0")


def test_what_has_happened_is_shown_newest_first(visit):
    with running(make_store()) as service:
        page = visit(f"http://127.0.0.1:{service.server.port}").open(
            wait_for=None, viewport={"width": 390, "height": 844}
        )
        assert text(page, "#incidents + .none") == "None yet."
        service.incidents.add("Barista 7 died in round 1; restarted")
        service.incidents.add(f"{'host-' * 30}0 took no part in round 2")
        service.live.read_status()
        page.wait_for_selector("#incidents tbody tr")
        lines = page.locator("#incidents td").all_inner_texts()
        assert [line[-10:] for line in lines] == ["in round 2", " restarted"]
        assert not page.is_visible("#incidents + .none")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_login_is_asked_for_beyond_loopback(visit, tmp_path):
    _, solver = write_model(tmp_path)
    server = start(tmp_path, solver, "--port", "0", "--host", "0.0.0.0")
    watch = visit(f"http://127.0.0.1:{server.address.rpartition(':')[2]}")
    try:
        page = watch.open(wait_for=None)
        assert page.locator("#state").count() == 0
        page.fill("[name=token]", "another")
        page.click("button")
        page.wait_for_selector("[role=alert]")
        page.fill("[name=token]", TOKEN)
        page.click("button")
        page.wait_for_selector("#state[data-state=live]")
        assert page.url.endswith("/current_status")
        assert TOKEN not in page.content()
        # A browser reports each 401 on its console.
        assert all("401" in complaint for complaint in watch.complaints)
        watch.complaints.clear()
    finally:
        watch.is_away = True
        assert server.stop(30) == 0


def test_restarted_server_is_found_again(visit, tmp_path):
    _, solver = write_model(tmp_path)
    server = start(tmp_path, solver, "--port", "0")
    port = server.address.rpartition(":")[2]
    with_snapshot = Client(server.address, TOKEN, run="a-run", worker="w")
    with_snapshot.snapshot()
    with_snapshot.close()
    watch = visit(f"http://{server.address}")
    page = watch.open()
    epoch = text(page, "[data-key=epoch]")
    watch.is_away = True
    assert server.stop(30) == 0
    page.wait_for_selector("#state[data-state=gone]")
    assert text(page, "#state").startswith("no answer for ")
    server = start(tmp_path, "--port", port, "--resume", str(tmp_path / "snapshots"))
    try:
        page.wait_for_selector("#state[data-state=live]")
        assert text(page, "[data-key=epoch]") != epoch
        assert text(page, "#resumed").startswith("Resumed at version 0 from ")
    finally:
        assert server.stop(30) == 0
