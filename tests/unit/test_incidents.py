"""The newest of what has happened to a run's processes."""

from param_server.incidents import LIMIT, Incidents


def test_the_newest_come_first_and_the_oldest_are_forgotten():
    clock = iter(range(LIMIT + 1))
    incidents = Incidents(lambda: float(next(clock)))
    assert incidents.listing() == []
    for number in range(LIMIT + 1):
        incidents.add(f"worker {number} died")
    listing = incidents.listing()
    assert listing[0] == {"time": float(LIMIT), "text": f"worker {LIMIT} died"}
    assert [incident["time"] for incident in listing] == list(range(LIMIT, 0, -1))
