"""The parts of ``bench_worker``: peers and ours as processes that take turns, and their figures."""
