"""Who holds a port, for the line that says it is taken."""

from __future__ import annotations

import psutil


def holder(port: int) -> str:
    """Return " by NAME (process PID)" of who listens on a TCP port, as far as we may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and getattr(connection.laddr, "port", 0) == port and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f" by {name} (process {connection.pid})"
    except (psutil.Error, OSError):
        pass
    return ""
