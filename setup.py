"""Which folders are which packages; everything else about the project is in pyproject.toml.

A top-level folder whose path is not its import name holds the package one level down:
``caffe/python/caffe`` is ``caffe`` (as in BVLC Caffe) and ``param-server/param_server`` is
``param_server``.  A flat mapping breaks editable installs silently: see ARCHITECTURE.md.
"""

from setuptools import find_packages, setup

setup(
    py_modules=["ddq", "replay"],
    packages=[
        *find_packages(".", include=["barista", "barista.*"]),
        *find_packages("caffe/python"),
        *find_packages("param-server"),
    ],
    package_dir={
        "barista": "barista",
        "caffe": "caffe/python/caffe",
        "param_server": "param-server/param_server",
    },
    package_data={
        "caffe": ["py.typed", "proto/*.proto"],
        "param_server": ["py.typed", "static/*", "templates/*"],
    },
)
