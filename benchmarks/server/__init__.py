"""The parts of ``bench_server``: processes, nets, and the servers that ours is measured beside."""
