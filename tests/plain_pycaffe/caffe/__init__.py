"""A stand-in for BVLC's pycaffe: our engine with every name hidden that a real build lacks.

`DDQ_CAFFE=tests/plain_pycaffe` puts it in the engine's place.  Beside hiding names, it is as strict
as the real one: file names are `str`, dimensions `int`; `data` and `diff` cannot be assigned; what
fails a check writes glog's line and aborts the process; and it chatters on stderr unless glog is
told not to.  tests/unit/test_plain_pycaffe.py compares the names with what a real build listed.
"""

from ._plain import __dir__, __getattr__

__all__ = ["__dir__", "__getattr__"]
