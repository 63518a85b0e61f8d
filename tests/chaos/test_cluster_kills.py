"""Kill what a run on a cluster consists of, one process after another, each in mid-round.

`-s` shows the table.
"""

import re

import pytest

from tests.chaos.cluster_kill_rig import EVENTS, WORKERS, Trial

pytestmark = [pytest.mark.chaos, pytest.mark.spark]


def check(recovery):
    """See that the counts add up: what was acknowledged was applied, and nothing else but what
    a Barista gave no account of, or a server had no time to answer.
    """
    assert recovery.printed_gone == 0  # acknowledged means on disk
    if recovery.event == "the parameter server":
        assert 0 <= recovery.unreported <= WORKERS, recovery
    elif recovery.event == "the driver" or EVENTS[recovery.event].ends_a_barista:
        assert recovery.unreported >= 0, recovery
    else:
        assert recovery.unreported == 0, recovery


def table(recoveries):
    lines = [
        "| killed | both push again, s | round over, s | acknowledged | applied | without account "
        "| lost | answered again |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in recoveries:
        lost = max(0, -each.unreported)
        lines.append(
            f"| {each.event} | {each.pushing_s:.1f} | {each.round_s:.1f} | {each.acknowledged:,} "
            f"| {each.applied:,} | {max(0, each.unreported):,} | {lost:,} | {each.duplicates} |"
        )
    return "\n".join(lines)


@pytest.mark.timeout(400)
def test_a_barista_an_executor_and_the_server_are_killed(site):
    trial = Trial(site, "--durability", "acknowledged")
    recoveries, shown = [], []
    for event in ("a Barista", "an executor", "the parameter server"):
        recoveries.append(trial.kill(event))
        shown += trial.incidents()  # before a server is killed that knows of them
    trial.finish()
    for told in (trial.said(), "\n".join(shown)):
        assert re.search(r"Barista \d+ died in round \d+; restarted", told)
        assert re.search(r"took no part in round \d+$", told, re.MULTILINE)
        assert re.search(
            r"the parameter server died \(-9\) and was restarted from version \d+; "
            "nothing acknowledged is lost", told,
        )  # fmt: skip
    print(table(recoveries))  # noqa: T201 (its purpose)
    for each in recoveries:
        check(each)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_everything_is_killed(site):
    trial = Trial(site, "--durability", "acknowledged")
    recoveries = [trial.kill(event) for event in EVENTS] + [trial.kill_driver()]
    trial.finish()
    print(table(recoveries))  # noqa: T201 (its purpose)
    for each in recoveries:
        check(each)
