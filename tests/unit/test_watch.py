"""A Barista notices that its executor is gone."""

import subprocess
import sys
import threading

import psutil

from barista.watch import wait_until_gone


def test_waits_for_the_end_of_the_process():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(child.pid).create_time()
    thread = threading.Thread(target=wait_until_gone, args=(child.pid, created))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    child.communicate(b"\n")
    thread.join(10)
    assert not thread.is_alive()


def test_a_reused_pid_is_another_process():
    me = psutil.Process()
    wait_until_gone(me.pid, me.create_time() - 100)  # returns at once


def test_a_missing_process_is_gone():
    child = subprocess.Popen([sys.executable, "-c", ""])
    created = psutil.Process(child.pid).create_time()
    child.wait()
    wait_until_gone(child.pid, created)
