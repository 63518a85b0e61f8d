"""A worker that does nothing but push, and says what became of each push.

    python pushing_worker.py ADDRESS WORKER WORKERS

The token is in DDQ_TOKEN.  Its n-th push adds 1 to one number of the model: row WORKER, column n
modulo the row's length.  It writes one line before a push and one for its end, until stdin ends:

    try N                        the push may be on its way from now on
    acknowledged N EPOCH VERSION it counts: applied in that epoch as that version or before it
    dropped N EPOCH              it does not, for the server is in another epoch, this one
"""

import os
import sys
import threading

import numpy as np
from param_server.client import Client
from param_server.errors import EpochChanged
from param_server.wire import Push

PATIENCE_S = 120.0


def main():
    address, worker, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = Client(
        address, os.environ["DDQ_TOKEN"], run="r1", worker=f"w{worker}", retry_s=PATIENCE_S
    )
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    layout = client.prototxt().layout
    slots = layout.size // workers
    gradient = np.zeros(layout.size, np.float32)
    weights = np.empty(layout.size, np.float32)
    model = client.pull(out=weights)
    epoch, version, number = model.epoch, model.version, 0
    while not stop.is_set():
        number += 1
        place = worker * slots + number % slots
        gradient[place] = -1.0
        push = Push(
            run="r1", worker=f"w{worker}", incarnation="i0", sequence=number,
            epoch=epoch, version=version, layout=layout.digest,
        )  # fmt: skip
        say("try", number)
        try:
            answer, _ = client.push(push, gradient)
        except EpochChanged:
            model = client.pull(out=weights)
            say("dropped", number, model.epoch)
            epoch, version = model.epoch, model.version
        else:
            assert answer.status in {"applied", "duplicate"}, answer
            # The answer to a repeat tells nothing of the first time but that it was before this
            # life, if it was sent in another one.
            applied = answer.version if answer.epoch == epoch else 0
            say("acknowledged", number, answer.epoch, applied)
            epoch, version = answer.epoch, answer.version
        gradient[place] = 0.0
    client.close()


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


main()
