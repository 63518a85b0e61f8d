"""The driver's side: what a run is, its rounds, its parameter server, and what is left of it."""
