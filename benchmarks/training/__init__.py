"""Real runs of ddq.py, for benchmarks of what is learned."""
