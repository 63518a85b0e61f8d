import subprocess
import sys
from pathlib import Path

import caffe
from caffe import _caffe


def test_the_compiled_modules_names_are_those_of_the_package():
    for name in _caffe.__all__:
        assert getattr(_caffe, name) is not None
        if name in dir(caffe):
            assert getattr(_caffe, name) is getattr(caffe, name)
    assert {"Blob", "BlobVec", "IntVec", "LayerVec", "NetVec", "Solver"} <= set(dir(_caffe))


def test_import_caffe_and_its_messages_cost_no_torch():
    cheap = ("proto", "io", "net_spec", "draw", "coord_map", "errors", "prototxt")
    code = (
        f"import sys, caffe\nfor name in {cheap}: __import__('caffe.' + name)\n"
        "caffe.layers, caffe.params, dir(caffe), caffe.__version__\n"
        "print([name for name in ('torch', 'h5py', 'skimage', 'pydot') if name in sys.modules])"
    )
    package = Path(caffe.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
