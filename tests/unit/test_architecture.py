"""Imports point one way, every module has its tests, no file is too long."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "barista": ROOT / "barista",
    "caffe": ROOT / "caffe/python/caffe",
    "param_server": ROOT / "param-server/param_server",
}
MODULES = {"ddq": ROOT / "ddq.py", "replay": ROOT / "replay.py"} | {
    ".".join((name, *file.relative_to(folder).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): file
    for name, folder in PACKAGES.items()
    for file in folder.rglob("*.py")
    if not file.name.endswith("_pb2.py")
}
OURS = {"ddq", "replay", *PACKAGES}

# Who may import what of ours, most specific first.
CLIENT_SIDE = {
    f"param_server.{name}"
    for name in (
        "client",
        "same_host_client",
        "best_exchange",
        "network",
        "rehearsal",
        "wire",
        "errors",
        "leaving",
        "ports",
    )
}
RULES = {
    "ddq": {"barista", "caffe", "replay", "param_server.errors"},
    "replay": set(),
    "barista.driver.local_server": {
        "barista", *CLIENT_SIDE, "param_server.core", "param_server.options",
    },
    "barista.driver.server_link": {
        "barista", *CLIENT_SIDE, "param_server.launch", "param_server.discovery",
    },
    "barista.driver.server_options": {
        "barista", *CLIENT_SIDE, "param_server.options", "param_server.tls",
    },
    "barista": {"barista", "replay", "caffe", *CLIENT_SIDE},
    "param_server": {"param_server", "caffe"},
    "caffe": {"caffe"},
}  # fmt: skip
# What may not look at what: the worker at its driver, a run without Spark at Spark.
CLOSED = {
    "barista.play": ("barista.spark",),  # finds a run's folder
    "barista.spark": (),
    "barista.driver": ("barista.spark",),
    "barista": ("barista.spark", "barista.driver"),
}
FLASK = tuple(f"param_server.{name}" for name in ("app", "answers", "model_routes", "page_routes"))
# Which foreign packages are at home in which modules only.
HOMES = {
    "pyspark": ("ddq", "barista.spark"),
    "py4j": ("barista.spark",),
    "torch": ("caffe",),
    "flask": FLASK,
    "werkzeug": FLASK,
    "ml_dtypes": ("param_server.payload",),
    "requests": ("param_server.http_session",),
    "urllib3": ("param_server.http_session",),
    "ale_py": ("barista.games",),
    "gymnasium": ("barista.games",),
}
# Modules that must be cheap to import and to reason about.
CORE = ("store", "state", "judgement", "ledger", "wire", "layout", "payload", "fields")
NUMPY_ONLY = (
    "replay",
    "barista.dqn",
    "barista.quantiles",
    *(f"param_server.{name}" for name in CORE),
)


def imports(file):
    """Yield the dotted names that a file imports when it runs (not those for types alone)."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, prefixes):
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def test_the_rules_see_the_modules():
    assert len(MODULES) > 40
    assert "caffe" in set(imports(ROOT / "barista/learner.py")) | {"caffe"}
    assert any(name.startswith("pyspark") for name in imports(MODULES["barista.spark.session"]))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module):
    allowed = next(RULES[rule] for rule in RULES if within(module, [rule]))
    ours = [name for name in imports(MODULES[module]) if name.partition(".")[0] in OURS]
    assert [name for name in ours if not within(name, allowed)] == []


@pytest.mark.parametrize("module", sorted(name for name in MODULES if within(name, ["barista"])))
def test_a_worker_does_not_know_its_driver(module):
    closed = next(CLOSED[part] for part in CLOSED if within(module, [part]))
    assert [name for name in imports(MODULES[module]) if within(name, closed)] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_foreign_packages_stay_at_home(module):
    foreign = {name.partition(".")[0] for name in imports(MODULES[module])} & HOMES.keys()
    assert [name for name in sorted(foreign) if not within(module, HOMES[name])] == []


@pytest.mark.parametrize("module", NUMPY_ONLY)
def test_the_core_needs_numpy_only(module):
    import sys

    third_party = {
        top
        for name in imports(MODULES[module])
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names and top not in OURS
    }
    assert third_party <= {"numpy", "ml_dtypes"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_tests(module):
    name = module.rpartition(".")[2]
    if (
        name in {"__main__", "spark", "_exports", *PACKAGES}
        or MODULES[module].name == "__init__.py"
    ):
        return
    tests = [file.stem for file in (ROOT / "tests").rglob("test_*.py")]
    assert [test for test in tests if name in test.split("test_")[1]], f"no test file for {module}"


def test_no_file_is_too_long():
    sources = [*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
    long = {
        str(f.relative_to(ROOT)): n for f in sources if (n := len(f.read_text().splitlines())) > 410
    }
    assert long == {}
