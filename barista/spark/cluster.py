"""What a cluster needs and a laptop does not: memory beside the JVM, encryption, a disk that stays.

Pure functions of Spark's settings.  Each returns what is wrong as one line that ends with its
remedy, or None.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MIB = 1 << 20
_TASK_BYTES = 80_000_000  # of the Python worker that supervises a Barista: 73 MB were measured
_UNITS = {"": 20, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}  # powers of two; MiB alone
# The file systems that several hosts can mount.
_SHARED = (
    "nfs", "cifs", "smb", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.", "9p", "afs",
)  # fmt: skip
_OF_A_CONTAINER = ("overlay", "fuse.fuse-overlayfs", "tmpfs", "ramfs", "aufs")


class Mount(NamedTuple):
    """Where a file system is mounted, and of which kind it is."""

    point: str
    kind: str


def is_container(settings: Mapping[str, str]) -> bool:
    """Say whether executors are containers, with a limit on all of their memory."""
    # https://spark.apache.org/docs/latest/configuration.html: memoryOverhead "is currently
    # supported on YARN and Kubernetes"; a standalone worker limits the JVM's heap alone.
    return settings.get("spark.master", "").startswith(("yarn", "k8s"))


def memory_shortage(settings: Mapping[str, str], worker_bytes: int, slots: int) -> str | None:
    """Say whether an executor's Baristas need more than its container has beside the JVM.

    Args:
        settings: Spark's.
        worker_bytes: Memory of one Barista.
        slots: How many an executor holds.
    """
    if not is_container(settings):
        return None
    default = _default_overhead(settings)
    given = size_bytes(settings.get("spark.executor.memoryOverhead", "")) or default
    # What Spark takes by default is what its JVM may need beside its heap.
    needed = default + slots * (worker_bytes + _TASK_BYTES)
    if needed <= given:
        return None
    return (
        f"{slots} Barista{'s' * (slots > 1)} of {worker_bytes / 1e9:.1f} GB do not fit beside an "
        f"executor's JVM, in {given / 1e9:.1f} GB: add "
        f"--conf spark.executor.memoryOverhead={math.ceil(needed / MIB)}m"
    )


def _default_overhead(settings: Mapping[str, str]) -> int:
    factor = settings.get("spark.executor.memoryOverheadFactor")
    if factor is None and settings.get("spark.master", "").startswith("k8s"):
        factor = settings.get("spark.kubernetes.memoryOverheadFactor")
    heap = size_bytes(settings.get("spark.executor.memory", "1g"))
    least = size_bytes(settings.get("spark.executor.minMemoryOverhead", "384m"))
    return max(least, int(heap * float(factor or 0.1)))


def size_bytes(text: str) -> int:
    """Return the bytes of one of Spark's sizes, "512m" or "2g"; a bare number is in MiB; else 0."""
    match = re.fullmatch(r"(\d+)\s*([kmgtp]?)(i?b)?", text.strip().lower())
    if match is None:
        return 0
    number, unit, suffix = match.groups()
    return int(number) << _UNITS["b" if suffix == "b" and not unit else unit]


def address_limit(settings: Mapping[str, str], device: str) -> str | None:
    """Say whether GPUs are to be used under a limit of the address space.

    Args:
        settings: Spark's.
        device: `--device`.
    """
    on_gpu = device.startswith("cuda") or any(
        f"spark.{of}.resource.gpu.amount" in settings for of in ("executor", "task")
    )
    if not on_gpu or "spark.executor.pyspark.memory" not in settings:
        return None
    return (
        "spark.executor.pyspark.memory limits the address space of a Barista, in which CUDA maps "
        "far more than it uses and does not start: leave it out, and give "
        "spark.executor.memoryOverhead instead"
    )


def closures_in_clear(settings: Mapping[str, str]) -> str | None:
    """Say whether the server's token goes to executors unencrypted, in the closures of tasks."""
    master = settings.get("spark.master", "local")
    if master.startswith("local") or _is_loopback(settings.get("spark.driver.host", "")):
        return None
    # https://spark.apache.org/docs/latest/security.html#network-encryption: TLS, or the older
    # encryption that needs authentication (and without it is ignored).
    if _is_on(settings, "ssl.rpc.enabled"):
        return None
    older = ("network.crypto.enabled", "authenticate.enableSaslEncryption")
    if _is_on(settings, "authenticate") and any(_is_on(settings, name) for name in older):
        return None
    return (
        "the server's token goes to the executors in clear: add --conf spark.authenticate=true "
        "--conf spark.network.crypto.enabled=true, or set spark.ssl.rpc.enabled up"
    )


def _is_on(settings: Mapping[str, str], name: str) -> bool:
    return settings.get(f"spark.{name}", "false").lower() == "true"


def _is_loopback(host: str) -> bool:
    with suppress(OSError, ValueError):
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    return False


def vanishing_folder(
    settings: Mapping[str, str], folder: Path, mounts: Iterable[Mount] | None = None
) -> str | None:
    """Say whether a run's folder goes with the driver's container.

    Args:
        settings: Spark's.
        folder: Of the run; absolute.
        mounts: Of this host (default: as they are).
    """
    if settings.get("spark.submit.deployMode") != "cluster":
        return None
    if mounts is None:
        mounts = [Mount(p.mountpoint, p.fstype) for p in psutil.disk_partitions(all=True)]
    holds = [mount for mount in mounts if folder.is_relative_to(mount.point)]
    # Of two at one place the later one covers the other: what autofs has mounted covers autofs.
    mount = max(reversed(holds), key=lambda mount: len(mount.point), default=Mount("/", "overlay"))
    in_container = mount.point == "/" or mount.kind in _OF_A_CONTAINER
    if mount.kind.startswith(_SHARED) and not in_container:
        return None
    # A pod's volume is a mount of its own, of whichever kind.
    if settings.get("spark.master", "").startswith("k8s") and not in_container:
        return None
    return (
        f"in cluster deploy mode the driver's disk goes with it, and with it {folder} ({mount.kind}"
        "): put --run-dir on storage that stays (NFS, a persistent volume), or use "
        "--deploy-mode client"
    )
