"""An alarm is said once when it begins, and once when it ends."""

from barista.driver.alarm_lines import AlarmLines

DEAD = {"name": "dead-units", "text": "Half of them.", "since_s": 1.0}
STALLED = {"name": "no-progress", "text": "No better.", "since_s": 1.0}


def test_each_alarm_is_said_once_when_it_begins_and_once_when_it_ends():
    said = []
    lines = AlarmLines(said.append)
    for alarms in ([], [DEAD], [{**DEAD, "since_s": 2.0}], [DEAD, STALLED], [STALLED], [], [DEAD]):
        lines.show({"alarms": alarms})
    assert said == [
        "alarm: dead-units: Half of them.",
        "alarm: no-progress: No better.",
        "alarm over: dead-units",
        "alarm over: no-progress",
        "alarm: dead-units: Half of them.",
    ]
    assert lines.active == ["dead-units"]


def test_server_without_alarms_is_listened_to():
    lines = AlarmLines(print)
    lines.show({"version": 3})
    assert lines.active == []
