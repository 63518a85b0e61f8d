"""Spark's settings, and the code that is shipped."""

import pytest

from barista.spark import session


class Conf(dict):
    """SparkConf's methods that are asked, without a JVM."""

    def contains(self, key):
        return key in self

    def getAll(self):  # noqa: N802 (Spark's name)
        return self.items()


@pytest.mark.parametrize("key", ["spark.task.resource.gpu.amount"])
def test_gpus_of_a_local_master_are_refused(key):
    with pytest.raises(session.SessionError, match="--device cuda:0"):
        session.check_conf(Conf({"spark.master": "local[2]", key: "1"}))


@pytest.mark.parametrize("master", ["local-cluster[2,1,1024]", "spark://host:7077"])
def test_gpus_of_a_cluster_are_not(master):
    session.check_conf(Conf({"spark.master": master, "spark.task.resource.gpu.amount": "1"}))


def test_what_a_cluster_could_not_do_is_refused(tmp_path):
    limited = {"spark.master": "yarn", "spark.executor.pyspark.memory": "4g"}
    session.check_conf(Conf(limited))
    with pytest.raises(session.SessionError, match="address space"):
        session.check_conf(Conf(limited), "cuda:0")
    away = Conf({"spark.master": "yarn", "spark.submit.deployMode": "cluster"})
    session.check_conf(away)
    with pytest.raises(session.SessionError, match="put --run-dir on storage that stays"):
        session.check_conf(away, folder=tmp_path)


def test_executors_use_the_engine_of_the_driver(monkeypatch, tmp_path):
    for name in ("DDQ_CAFFE", "DDQ_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    assert session._engine_settings() == {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDQ_CAFFE", "pycaffe")
    assert session._engine_settings() == {"spark.executorEnv.DDQ_CAFFE": str(tmp_path / "pycaffe")}
    monkeypatch.setenv("DDQ_PRECISION", "bf16")
    assert session._engine_settings()["spark.executorEnv.DDQ_PRECISION"] == "bf16"


class Cluster:
    """A context of a cluster whose executors come one by one."""

    master = "spark://head:7077"

    def __init__(self, *slots):
        self._slots = list(slots)
        self._jsc = self

    def sc(self):
        return self

    def resourceProfileManager(self):  # noqa: N802 (Spark's name)
        return self

    def defaultResourceProfile(self):  # noqa: N802
        return None

    def maxNumConcurrentTasks(self, _):  # noqa: N802
        return self._slots.pop(0) if len(self._slots) > 1 else self._slots[0]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(session.time, "sleep", sleep)
    return now


def test_slots_are_counted_when_the_wanted_ones_have_come(clock):
    said = []
    assert session.task_slots(Cluster(0, 2, 4, 8), 4, said.append) == 4
    assert said == [f"executors register: {n} task slots so far" for n in (2, 4)]


def test_slots_are_counted_when_no_more_come(clock):
    assert session.task_slots(Cluster(0, 2, 4, 4), None, lambda _: None) == 4
    assert session.SETTLED_S < clock[0] < session.REGISTER_S


def test_a_cluster_that_gives_nothing_is_waited_for_with_an_end(clock):
    assert session.task_slots(Cluster(0), None, lambda _: None) == 0
    assert clock[0] <= session.REGISTER_S + 1


def test_a_local_master_is_not_waited_for(clock):
    local = Cluster(2)
    local.master = "local[2,4]"
    assert session.task_slots(local, 8) == 2
    assert clock[0] == 0.0
