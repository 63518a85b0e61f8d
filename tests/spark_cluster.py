"""A standalone Spark cluster of this machine: a master and workers, each a JVM of its own.

Hosts may be namespaces: a network of their own behind a link that can be cut, a name of their own,
and none of the driver's files.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

_DEPLOY = "org.apache.spark.deploy"


class Host(NamedTuple):
    """Where a worker runs."""

    address: str
    prefix: tuple[str, ...] = ()  # of its command
    gpu: str | None = None  # the address of one that it says it has


LOOPBACK = Host("127.0.0.1")


class Cluster:
    """A master and a worker of one core on each host; the master is on the driver's."""

    def __init__(self, site, hosts=(LOOPBACK, LOOPBACK), *, address="127.0.0.1"):
        self._site, self.hosts, self.address = site, hosts, address
        conf = site.home / "spark-conf"  # with nothing in it: daemons log to their stderr
        conf.mkdir()
        self._env = {"SPARK_CONF_DIR": str(conf), "SPARK_NO_DAEMONIZE": "1"}
        self.master = self._daemon("master.Master", "--host", address, "--port", "0")
        self.url = self._said(self.master, r"Starting Spark master at (spark://\S+)")
        self.workers = [self.start_worker(host) for host in hosts]
        for worker in self.workers:
            self._said(worker, r"Successfully registered with (master)")

    def start_worker(self, host):
        """Start a worker; it has not registered yet."""
        folder = self._site.home / f"work-{len(self._site.started)}"
        folder.mkdir()
        has = folder / "has.conf"
        has.write_text("" if host.gpu is None else self._resources(folder, host.gpu))
        return self._daemon(
            "worker.Worker", "--host", host.address, "--cores", "1", "--memory", "1g",
            "--work-dir", str(folder), "--properties-file", str(has), self.url,
            prefix=host.prefix, cwd=folder,
        )  # fmt: skip

    def command(self, *options, spark_options=()):
        """Return the command of a run on this cluster."""
        return self._site.command(
            *options,
            master=self.url,
            spark_options=[
                "--conf", f"spark.driver.host={self.address}",
                "--conf", f"spark.driver.bindAddress={self.address}",
                "--conf", "spark.executor.memory=512m",
                *spark_options,
            ],
        )  # fmt: skip

    def stop(self):
        """Stop the daemons, which take their executors along."""
        for process in (*self.workers, self.master):
            process.terminate()
        for process in (*self.workers, self.master):
            process.wait(30)

    @staticmethod
    def _resources(folder, gpu):
        """Write what a worker finds its GPU with; return the settings that say so."""
        script = folder / "gpus.sh"
        found = json.dumps({"name": "gpu", "addresses": [gpu]})
        script.write_text(f"#!/bin/sh\necho {shlex.quote(found)}\n")
        script.chmod(0o700)
        name = "spark.worker.resource.gpu"
        return f"{name}.amount 1\n{name}.discoveryScript {script}\n"

    def _daemon(self, name, *arguments, prefix=(), **keywords):
        command = ["spark-class", f"{_DEPLOY}.{name}", *arguments, "--webui-port", "0"]
        return self._site.start([*prefix, *command], more_env=self._env, **keywords)

    def _said(self, process, pattern):
        return self._site.wait_for(lambda: re.search(pattern, process.err.read_text()), process)[1]


def why_no_namespaces():
    """Return why this machine has no namespaces for us, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "network namespaces need ip (iproute2) and unshare (util-linux)"
    try:
        with namespaces(1):
            return None
    except subprocess.CalledProcessError as error:
        return f"this machine gives no network namespaces: {error.stderr.strip()}"


class Link:
    """The cable between a namespace and the driver's host."""

    def __init__(self, device):
        self._device = device

    def cut(self):
        """Let nothing through, without telling either side."""
        _ip("link", "set", self._device, "nomaster")

    def mend(self, bridge):
        """Let everything through again."""
        _ip("link", "set", self._device, "master", bridge)


class Network(NamedTuple):
    """Hosts in namespaces around a bridge, which has the driver's address."""

    address: str
    bridge: str
    hosts: list[Host]
    links: list[Link]


@contextmanager
def namespaces(count, *, hidden=("/mnt",)):
    """Make `count` hosts of their own, to whom the folders `hidden` are empty.

    Raises:
        subprocess.CalledProcessError: If this machine does not let us.
    """
    mine = os.getpid()
    subnet = f"10.{200 + mine % 50}.{mine // 50 % 250}"
    bridge = f"ddq{mine}"
    with ExitStack() as undo:
        _ip("link", "add", bridge, "type", "bridge")
        undo.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        hosts, links = [], []
        for number in range(count):
            name, device = f"{bridge}-{number}", f"{bridge}v{number}"
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)
            _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
            undo.callback(_ip, "link", "del", device)
            _ip("link", "set", device, "master", bridge)
            _ip("link", "set", device, "up")
            address = f"{subnet}.{2 + number}"
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for each in ("lo", "eth0"):
                _ip("-n", name, "link", "set", each, "up")
            empty = " && ".join(f"mount -t tmpfs none {shlex.quote(str(each))}" for each in hidden)
            own = f'hostname host{number} && {empty} && exec "$@"'
            alone = ("unshare", "--uts", "--mount", "sh", "-c", own, "sh")
            alone = (*alone, "env", f"SPARK_LOCAL_IP={address}")
            hosts.append(Host(address, ("ip", "netns", "exec", name, *alone)))
            links.append(Link(device))
        yield Network(f"{subnet}.1", bridge, hosts, links)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
