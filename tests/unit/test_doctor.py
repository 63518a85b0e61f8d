"""What the doctor makes of what executors answer, and who is told where the driver is."""

import socket

import pytest

from barista.spark import doctor
from barista.spark.checkup import Finding
from tests import tiny

GB = 10**9
NEEDS = doctor.Needs(
    config=tiny.config(workers=4, replay_capacity=5000),
    worker_bytes=GB,
    disk_bytes=0,
    address="192.0.2.1:5500",
    versions={"numpy": "2.4.6", "torch": "2.13.0+cpu"},
)
WELL = Finding(
    host="one",
    folder="/spark/a",
    python="3.11.7",
    executable="/usr/bin/python3",
    versions={"numpy": "2.4.6", "torch": "2.13.0"},
    bf16=False,
    route="",
    clock_s=0.1,
    memory=4 * GB,
    address_limit=None,
    gpus=(),
    gpu=None,
    disk=0,
    tryout={"engine": "/caffe/__init__.py", "memory": GB // 3},
)


def diagnose(*findings, needs=NEEDS, **changes):
    config = tiny.config(**{**NEEDS.config.to_json(), **changes})
    return doctor.diagnose(findings, needs._replace(config=config))


def test_executors_that_are_well_are_not_written_about():
    assert diagnose(WELL, WELL._replace(host="two")) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"versions": {"numpy": None, "torch": "2.13.0"}}, "python3 lacks numpy: install"),
        ({"versions": {"numpy": "1.26.4", "torch": "2.13.0"}}, "numpy 1.26.4, not 2.4.6"),
        ({"tryout": {"error": "ConfigError: no"}}, "a Barista does not start: ConfigError: no"),
        ({"route": "TimeoutError: timed out"}, "does not reach 192.0.2.1:5500 (TimeoutError"),
        ({"clock_s": -61.0}, "its clock differs by -61 s"),
        ({"address_limit": GB // 2}, "leave spark.executor.pyspark.memory out"),
        ({"memory": 3 * GB}, "3.0 GB of memory are free, and 4 Baristas need 4.0 GB"),
        ({"gpus": ("H100",)}, "has a GPU (H100) that Spark has not assigned"),
        ({"disk": None}, "cannot write"),
    ],
)
def test_what_would_go_wrong_is_one_line(changes, said):
    ill = WELL._replace(**changes)
    (line,) = diagnose(ill)
    assert len(diagnose(ill, ill._replace(folder="/spark/b"))) == 1  # once for a host
    assert line.startswith("one: ")
    assert said in line
    assert "\n" not in line


def test_a_missing_package_explains_why_nothing_starts():
    changes = {"versions": {"numpy": None, "torch": "1.0"}, "tryout": {"error": "no numpy"}}
    said = diagnose(WELL._replace(**changes))
    assert len(said) == 2
    assert not [line for line in said if "does not start" in line]


def test_executors_of_one_host_share_its_memory_and_disk():
    on_one, apart = (WELL, WELL._replace(folder="/spark/b")), (WELL, WELL._replace(host="two"))
    needs = NEEDS._replace(worker_bytes=int(1.5 * GB))
    assert "4 Baristas need 6.0 GB" in diagnose(*on_one, needs=needs)[0]
    assert diagnose(*apart, needs=needs) == []
    disk = NEEDS._replace(disk_bytes=GB)
    assert "4 Baristas write 4.0 GB" in diagnose(*on_one, needs=disk, replay_dir="/data")[0]


def test_no_more_baristas_are_reckoned_with_than_there_will_be():
    four = [WELL._replace(folder=f"/spark/{name}") for name in "abcd"]
    needs = NEEDS._replace(worker_bytes=4 * GB)
    assert "5 Baristas need 20.0 GB" in diagnose(*four, needs=needs, workers=5)[0]


def test_arithmetic_that_a_processor_lacks_is_told():
    (line,) = diagnose(WELL, precision="bf16")
    assert "drop --precision bf16" in line
    assert diagnose(WELL._replace(bf16=True), precision="bf16") == []


def test_a_gpu_that_is_assigned_or_not_wanted_is_well():
    has = WELL._replace(gpus=("H100",))
    assert diagnose(has._replace(gpu="0")) == diagnose(has, device="cpu") == []


def test_the_table_has_a_line_for_each_executor():
    lost = WELL._replace(host="two", tryout={"error": "no"}, route="timed out", clock_s=None)
    headings, first, second = doctor.table([WELL, lost], NEEDS)
    assert headings.split()[:3] == ["executor", "Python", "packages"]
    assert "as here   yes, no bf16, 0.3 GB  yes    +0.10 s" in first
    assert "no                    no     ?" in second


def test_the_next_free_port_is_listened_on():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with doctor.listening("mark", "127.0.0.1", [port, 0]) as free:
            assert free != port
            with socket.create_connection(("127.0.0.1", free)) as connection:
                assert connection.makefile().readline().split()[0] == "mark"
        with pytest.raises(OSError, match="in use"), doctor.listening("m", "127.0.0.1", [port]):
            pass
