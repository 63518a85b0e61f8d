"""What is refused, or warned of, on a cluster."""

from pathlib import Path

import pytest

from barista.spark import cluster
from barista.spark.cluster import Mount

GB = 10**9
YARN = {"spark.master": "yarn", "spark.executor.memory": "2g"}


def test_what_does_not_fit_is_refused_with_the_setting_that_makes_it_fit():
    said = cluster.memory_shortage(YARN, GB, slots=4)
    setting = said.rpartition("--conf ")[2]
    assert "4 Baristas of 1.0 GB" in said
    name, _, value = setting.partition("=")
    assert name == "spark.executor.memoryOverhead"
    assert cluster.memory_shortage({**YARN, name: value}, GB, slots=4) is None
    less = f"{int(value.removesuffix('m')) - 1}m"
    assert cluster.memory_shortage({**YARN, name: less}, GB, slots=4) == said.replace(
        "0.4 GB: add", f"{cluster.size_bytes(less) / GB:.1f} GB: add"
    )


@pytest.mark.parametrize("master", ["local[2]", "spark://head:7077", "local-cluster[2,1,512]"])
def test_memory_that_no_container_limits_is_not_refused(master):
    assert cluster.memory_shortage({"spark.master": master}, 100 * GB, slots=4) is None


@pytest.mark.parametrize(
    ("settings", "mib"),
    [
        ({}, 384),
        ({"spark.executor.memory": "10g"}, 1024),
        ({"spark.executor.memory": "10g", "spark.executor.memoryOverheadFactor": "0.4"}, 4096),
        ({"spark.kubernetes.memoryOverheadFactor": "0.5"}, 512),
        ({"spark.executor.minMemoryOverhead": "1g"}, 1024),
    ],
)
def test_the_room_that_spark_leaves_by_default(settings, mib):
    assert cluster._default_overhead({"spark.master": "k8s://a", **settings}) == mib << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 << 20), ("512m", 512 << 20), ("2G", 2 << 30), ("2gb", 2 << 30), ("8k", 8192),
        ("7b", 7), ("", 0), ("lots", 0),
    ],
)  # fmt: skip
def test_sizes_are_read_as_spark_reads_them(text, size):
    assert cluster.size_bytes(text) == size


def test_an_address_limit_and_a_gpu_exclude_each_other():
    limited = {"spark.executor.pyspark.memory": "4g"}
    gpu = {"spark.executor.resource.gpu.amount": "1"}
    assert "memoryOverhead instead" in cluster.address_limit({**limited, **gpu}, "auto")
    assert "CUDA" in cluster.address_limit(limited, "cuda:0")
    assert cluster.address_limit(limited, "auto") is None
    assert cluster.address_limit(gpu, "cuda:0") is None


@pytest.mark.parametrize(
    ("settings", "clear"),
    [
        ({}, True),
        ({"spark.network.crypto.enabled": "true"}, True),  # ignored without authentication
        ({"spark.authenticate": "true"}, True),
        ({"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}, False),
        ({"spark.ssl.rpc.enabled": "true"}, False),
        ({"spark.io.encryption.enabled": "true"}, True),  # of local disks
        ({"spark.driver.host": "127.0.0.1"}, False),
        ({"spark.master": "local-cluster[2,1,512]"}, False),
    ],
)
def test_a_token_in_clear_is_warned_of(settings, clear):
    away = {"spark.master": "spark://head:7077", "spark.driver.host": "192.0.2.7"}
    said = cluster.closures_in_clear({**away, **settings})
    assert (said is not None) == clear
    assert not clear or "spark.network.crypto.enabled=true" in said


CONTAINER = [Mount("/", "overlay"), Mount("/tmp", "tmpfs"), Mount("/dev/shm", "tmpfs")]


@pytest.mark.parametrize(
    ("master", "mount", "stays"),
    [
        ("yarn", Mount("/data", "nfs4"), True),
        ("yarn", Mount("/data", "ceph"), True),
        ("yarn", Mount("/data", "ext4"), False),  # of one node, and nobody knows which
        ("yarn", Mount("/other", "nfs4"), False),
        ("k8s://a", Mount("/data", "ext4"), True),  # a volume
        ("k8s://a", Mount("/data", "tmpfs"), False),
        ("k8s://a", Mount("/data/run", "fuse.fuse-overlayfs"), False),
    ],
)
def test_a_folder_that_goes_with_the_driver_is_refused(master, mount, stays):
    settings = {"spark.master": master, "spark.submit.deployMode": "cluster"}
    said = cluster.vanishing_folder(settings, Path("/data/run"), [*CONTAINER, mount])
    assert (said is None) == stays
    assert stays or "--run-dir" in said


def test_what_an_automount_has_mounted_counts():
    settings = {"spark.master": "yarn", "spark.submit.deployMode": "cluster"}
    mounts = [*CONTAINER, Mount("/data", "autofs"), Mount("/data", "nfs4")]
    assert cluster.vanishing_folder(settings, Path("/data/run"), mounts) is None


def test_in_client_mode_the_folder_is_the_users_own():
    assert cluster.vanishing_folder({"spark.master": "yarn"}, Path("/tmp/run"), CONTAINER) is None
    here = {"spark.master": "yarn", "spark.submit.deployMode": "cluster"}
    assert cluster.vanishing_folder(here, Path("/proc/run")) is not None
