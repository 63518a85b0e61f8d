"""The parameter server: one copy of the weights, a Caffe solver, and a protocol to share both.

Nothing is imported here, so that a worker that needs the client pays for the client only.
"""
