"""The floors of the house: a module imports only what lies below it, and `import lib` loads next to nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lib import config

# A floor imports from itself and from those below; the four methods not from one another.
FLOORS = [
    "config parameters compute record progress plots dotplots store tensors cache checksums intervals units contract "
    "tables reduced cells names claims findings",
    "data models graph",
    "permission recipes training zoo attacks evaluations",
    "detectors",
    "slicing robustness dynamic lancet",
    "experiments",
    "notebook explore",
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names.split()}
METHODS = set(FLOORS[4].split())
# Read records and the configuration; imported by none of the others.
BESIDE = {"report", "engine", "cite", "verify", "crate"}
# Of these, importing them must not load torch.
WITHOUT_TORCH = (
    "config store record contract intervals units claims findings tables report reduced progress plots dotplots engine"
)


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module below root/lib."""
    found = {}
    for path in sorted((root / "lib").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path], nested: bool) -> set[str]:
    """Modules of lib that a module imports.

    Args:
        nested: also those inside functions and under TYPE_CHECKING.
    """
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree) if nested else at_once(tree.body):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                found.add(whole if whole in known else origin)
    return {target for target in found if target in known and target != name}


def at_once(body):
    """Statements that importing the module carries out."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_once(node.orelse)
            continue
        yield node
        for inner in ("body", "orelse", "finalbody", "handlers"):
            yield from at_once(getattr(node, inner, []))


def part(name: str) -> str:
    """lib.robustness.fgsm -> robustness."""
    return name.split(".")[1] if "." in name else ""


def violations(root: Path) -> list[str]:
    """What breaks the rule of the floors, in words."""
    known = modules(root)
    found = []
    for name, path in known.items():
        own = part(name)
        if own and own not in FLOOR and own not in BESIDE:
            found.append(f"{name} is on no floor")
            continue
        for target in sorted(imports(name, path, known, nested=True)):
            other = part(target)
            if other in ("", own) or other not in FLOOR | dict.fromkeys(BESIDE):
                continue
            if own in BESIDE or not own:  # the package itself, too, rests on the ground floor alone
                wrong = other not in BESIDE and FLOOR[other] > 0
            else:
                wrong = other in BESIDE or FLOOR[other] > FLOOR[own] or (own in METHODS and other in METHODS)
            if wrong:
                found.append(f"{name} imports {target}")
    return found


def circles(root: Path) -> list[list[str]]:
    """Modules that import one another when they are imported."""
    known = modules(root)
    graph = {name: sorted(imports(name, path, known, nested=False)) for name, path in known.items()}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            found.append([*way[way.index(name) :], name])
        elif name not in done:
            for target in graph[name]:
                visit(target, [*way, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


def test_a_floor_imports_only_from_below():
    assert violations(config.ROOT) == []


def test_no_module_imports_itself_in_a_circle():
    assert circles(config.ROOT) == []


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"data": "from lib import zoo"}, ["lib.data imports lib.zoo"]),
        ({"data": "import lib.zoo"}, ["lib.data imports lib.zoo"]),
        ({"data": "from lib.zoo import get"}, ["lib.data imports lib.zoo"]),
        ({"data": "def f():\n    from . import zoo"}, ["lib.data imports lib.zoo"]),
        ({"slicing/__init__": "", "slicing/a": "from lib.lancet import x"}, ["lib.slicing.a imports lib.lancet"]),
        ({"slicing/__init__": "", "slicing/a": "from ..lancet import x"}, ["lib.slicing.a imports lib.lancet"]),
        ({"record": "from lib import report"}, ["lib.record imports lib.report"]),
        ({"report": "from lib import training"}, ["lib.report imports lib.training"]),
        ({"odd": ""}, ["lib.odd is on no floor"]),
        (
            {"slicing/__init__": "from lib import detectors, zoo, config\nfrom lib.slicing import b", "slicing/b": ""},
            [],
        ),
        ({"report": "from lib import claims, record"}, []),
        ({"claims": "from lib import report"}, ["lib.claims imports lib.report"]),
        ({"explore": "from lib import slicing, lancet"}, []),
        ({"lancet": "from lib import explore"}, ["lib.lancet imports lib.explore"]),
    ],
)
def test_the_rule_of_the_floors_finds_what_breaks_it(tmp_path, files, wanted):
    names = ["__init__", *FLOOR, *BESIDE]
    for name, text in {**dict.fromkeys(names, ""), **files}.items():
        path = tmp_path / "lib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if "slicing/__init__" in files:
        (tmp_path / "lib" / "slicing.py").unlink()
    assert violations(tmp_path) == wanted


def test_the_search_for_circles_finds_them_at_the_top_level_only(tmp_path):
    (tmp_path / "lib").mkdir()
    write = {"__init__": "", "a": "from lib import b", "b": "if True:\n    import lib.c", "c": "from lib.a import x"}
    for name, text in write.items():
        (tmp_path / "lib" / f"{name}.py").write_text(text)
    assert circles(tmp_path) == [["lib.a", "lib.b", "lib.c", "lib.a"]]
    (tmp_path / "lib" / "c.py").write_text("def later():\n    from lib.a import x")
    assert circles(tmp_path) == []


def loaded(statement: str) -> set[str]:
    """Modules that a fresh interpreter holds after a statement, and not before."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=config.ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_lib_loads_nothing_but_itself():
    assert {name.split(".")[0] for name in loaded("import lib")} <= {"lib", *sys.stdlib_module_names}
    assert loaded("import lib") & {"lib.config", "lib.store", "json", "subprocess"} == set()


def test_records_reports_and_the_engine_need_no_torch():
    names = ", ".join(WITHOUT_TORCH.split())
    assert "torch" not in loaded(f"from lib import {names}")


def test_submodules_load_on_first_use():
    assert "lib.store" in loaded("import lib; lib.store.fingerprint(1)")
    import lib

    with pytest.raises(AttributeError, match="module 'lib' has no attribute 'stores'"):
        _ = lib.stores
    assert {"zoo", "data", "robustness"} <= set(dir(lib))


def test_only_the_configuration_reads_the_environment():
    """The engine hands its environment to the jobs it starts, and may; nothing else looks at it."""
    readers = {part(name) for name, path in modules(config.ROOT).items() if "environ" in _attributes(path)}
    assert readers <= {"config", "engine"}


def test_nothing_assumes_a_device():
    for name, path in modules(config.ROOT).items():
        assert "cuda" not in _calls(path), f"{name} calls .cuda(): tensors follow the model's device"


def _attributes(path: Path) -> set[str]:
    found = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    return {"environ" if name in ("environ", "getenv", "environb") else name for name in found}


def _calls(path: Path) -> set[str]:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}


def test_files_stay_short():
    """A file above about 400 lines is two files."""
    for name, path in modules(config.ROOT).items():
        assert len(path.read_text().splitlines()) <= 420, name
