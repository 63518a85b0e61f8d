"""Kill the server at random instants: each acknowledged push counts once, or is told to be gone.

Four worker processes push whole numbers to a server whose rule subtracts them, so that the model
says which pushes it holds.  `DDQ_WRITE_RESULTS=1` has the long form write its table, and what each
mode costs an update, to a folder in docs/results/.
"""

import json
import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from tests.chaos.kill_rig import Campaign, Pusher, printed_gap

ROOT = Path(__file__).resolve().parents[2]
MODES = ("interval", "acknowledged")
pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("no_stray_processes")]


def run(folder, mode, kills, failures, done, **how):
    try:
        campaign = Campaign(folder, mode, seed=MODES.index(mode))
        try:
            for _ in range(kills):
                campaign.kill(**how)
            campaign.finish()
            done[mode] = campaign
        finally:
            campaign.close()
    except BaseException as error:  # noqa: BLE001 - told by the test of that mode
        failures[mode] = error


def run_both(folder, kills, **how):
    """Run both modes at once, for most of the time a server starts; return failures and ends."""
    failures, done = {}, {}
    threads = [
        threading.Thread(target=run, args=(folder / mode, mode, kills, failures, done), kwargs=how)
        for mode in MODES
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures, done


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return run_both(tmp_path_factory.mktemp("kills"), 3, longest_s=1.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES)
def test_three_kills(short, mode):
    failures, done = short
    if mode in failures:
        raise failures[mode]
    assert len(done[mode].restarts) == 3
    assert done[mode].counts()["acknowledged"] > 10


def test_gap_is_read_from_the_sentence():
    begin = "resumed at version 7 from /there/7: 28 steps, 0 episodes; "
    assert printed_gap(begin + "nothing acknowledged is lost") == 0
    assert printed_gap(begin + "1 acknowledged update is gone") == 1
    assert printed_gap(begin + "1,234 acknowledged updates are gone") == 1234


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills(tmp_path):
    failures, done = run_both(tmp_path, 50, longest_s=2.0, at_start=0.2)
    for error in failures.values():
        raise error
    rows = {mode: summary(done[mode]) for mode in MODES}
    for mode, cost in costs(tmp_path).items():
        rows[mode].update(cost)
    if os.environ.get("DDQ_WRITE_RESULTS") == "1":
        write(rows)


def summary(campaign):
    """Return what the kills of one mode have come to."""
    restarts = campaign.restarts
    return {
        "kills": len(restarts),
        "kills while starting": campaign.killed_at_start,
        **campaign.counts(),
        "acknowledged and gone": sum(restart.lost for restart in restarts),
        "printed as gone": sum(restart.printed for restart in restarts),
        "most printed at once": max(restart.printed for restart in restarts),
        "counted twice": 0,  # or an assertion has failed
        "changes done again from the journal": sum(restart.replayed for restart in restarts),
        "start, median s": statistics.median(restart.started_s for restart in restarts),
    }


def costs(folder):
    """Return what a push of the Nature network's size takes in each mode, which take turns."""
    pushers = {}
    taken = {mode: [] for mode in MODES}
    rates = {mode: [] for mode in MODES}
    try:
        for mode in MODES:
            pushers[mode] = Pusher(folder / f"cost-{mode}", mode)
        for _ in range(8):
            for mode in MODES:
                taken[mode] += pushers[mode].push(15)
        for _ in range(3):
            for mode in MODES:
                rates[mode].append(pushers[mode].rate(workers=4, seconds=4.0))
    finally:
        for pusher in pushers.values():
            pusher.close()
    return {
        mode: {
            "payload, MB": pushers[mode].megabytes,
            "one worker: median ms a push": 1000 * statistics.median(taken[mode]),
            "one worker: 90th percentile": 1000 * statistics.quantiles(taken[mode], n=10)[-1],
            "four workers: updates/s": statistics.median(rates[mode]),
        }
        for mode in MODES
    }


def write(rows):
    folder = ROOT / "docs/results" / f"{time.strftime('%Y-%m-%d')}-server-kills"
    folder.mkdir(exist_ok=True)
    (folder / "kills.json").write_text(json.dumps(rows, indent=2) + "\n")
    lines = [f"| | {' | '.join(MODES)} |", "|---|---|---|"]
    for name in rows[MODES[0]]:
        values = [rows[mode][name] for mode in MODES]
        cells = [f"{v:,}" if isinstance(v, int) else f"{v:.1f}" for v in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "# Kills of the server\n\nWritten by `tests/chaos/test_server_kill.py`, which says what "
    text += "is counted.\n\n" + "\n".join(lines) + "\n"
    (folder / "README.md").write_text(text)
