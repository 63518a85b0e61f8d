"""Barista, the worker: it plays, remembers, computes gradients and exchanges them."""
