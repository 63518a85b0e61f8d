"""The parts of ``bench_scaling``: a model of workers and server, and real runs to hold it to."""
