"""What may import what, and that the core needs nothing optional."""

import ast
import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import labeldist

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "labeldist"

# A module may import its own part and parts of a lower level. What stands on one level does not know of each other.
LEVELS = {
    "messages": -1,
    "options": 0,
    "pairs": 0,
    "precision": 0,
    "class_names": 0,
    "label_texts": 1,
    "demo": 0,
    "distributed": 1,
    "checks": 1,
    "functional": 2,
    "backends": 3,
    "confusion": 3,
    "reducers": 3,
    "ldm": 4,
    "cached": 5,
    "coarse": 5,
    "evaluation": 5,
    "losses": 5,
    "relation": 5,
    "joint": 6,
    "memory": 6,
    "miners": 6,
    "samplers": 6,
    "wrappers": 7,
    # The public names, `labeldist/__init__.py`: all of the core.
    "": 8,
    "models": 9,
    "integrations": 10,
    "reports": 10,
    "serving": 10,
    "training": 11,
    "cli": 12,
    "__main__": 13,
}
CORE = [part for part, level in LEVELS.items() if level <= LEVELS[""] and part != "demo"]
CORE_NEEDS = {"torch", "pytorch_metric_learning", "einops"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module):
    """The level's name: `labeldist.training.data.corpus` is part of `training`."""
    return module.split(".")[1] if "." in module else ""


def tree_of(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports_of(module):
    """Full names of all modules that a module imports anywhere in its code, inside functions too.

    The package's own imports are for type checkers: it reads the same names when they are used, see the tests of it.
    """
    yield from _imports_in(tree_of(module), module)


def _imports_in(tree, module):
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for name in node.names:
                # `from labeldist import functional` names a module, `from labeldist import __version__` does not.
                inner = f"{source}.{name.name}"
                yield inner if inner in MODULES else source


def own_imports_of(module):
    return {name for name in imports_of(module) if name in MODULES and name != module}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_level(module):
    assert part_of(module) in LEVELS, f"{module}: give its part a level in tests/test_layout.py"


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_down_only(module):
    part = part_of(module)
    upward = [
        name for name in own_imports_of(module) if part_of(name) != part and LEVELS[part_of(name)] >= LEVELS[part]
    ]
    assert upward == []


def test_no_module_imports_itself_by_a_detour():
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, " > ".join([*under_way[under_way.index(module) :], module])
        if module not in done:
            under_way.append(module)
            for name in sorted(own_imports_of(module)):
                visit(name)
            done.add(under_way.pop())

    for module in MODULES:
        visit(module)


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) in CORE])
def test_the_core_needs_torch_and_metric_learning_only(module):
    outside = {name.split(".")[0] for name in imports_of(module)} - {"labeldist"} - sys.stdlib_module_names
    # Loaded when its backend is chosen, not before: see the test of what importing loads.
    optional = {"triton"} if part_of(module) == "backends" else set()
    assert outside <= CORE_NEEDS | optional


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) == "demo"])
def test_the_demo_needs_the_standard_library_only(module):
    assert {name.split(".")[0] for name in imports_of(module)} <= sys.stdlib_module_names | {"labeldist"}


def bound_names(module):
    """Names that a module's top level defines or imports."""
    for node in tree_of(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((name.asname or name.name).split(".")[0] for name in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def public_names(module):
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_exists_and_stands_once(module):
    names, bound = public_names(module), set(bound_names(module))
    assert len(names) == len(set(names))
    # A module-level __getattr__ may supply names that need an extra.
    assert "__getattr__" in bound or set(names) <= bound


def test_the_package_exports_only_what_its_modules_export():
    exported = {
        name for module in MODULES if part_of(module) in CORE and module != "labeldist" for name in public_names(module)
    }
    assert set(public_names("labeldist")) <= exported


def names_for_type_checkers():
    """The package's names with the modules that type checkers read them from."""
    (block,) = [node for node in tree_of("labeldist").body if isinstance(node, ast.If)]
    return {name.name: node.module for node in block.body for name in node.names}  # type: ignore[attr-defined]


def test_the_package_reads_its_names_from_where_type_checkers_do():
    homes = {name: f"labeldist.{home}" for name, home in labeldist._HOMES.items()}
    assert homes == names_for_type_checkers()
    assert set(homes) == set(labeldist.__all__)
    for name, home in homes.items():
        assert getattr(labeldist, name) is getattr(importlib.import_module(home), name)
    assert set(labeldist.__all__) <= set(dir(labeldist))


def test_the_packages_parts_are_its_attributes():
    assert labeldist.ldm.StaticLDM is labeldist.StaticLDM
    assert labeldist.functional is importlib.import_module("labeldist.functional")
    with pytest.raises(AttributeError, match="module 'labeldist' has no attribute 'nothing'"):
        labeldist.nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        from labeldist import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_public_classes_pickle():
    ldm = labeldist.StaticLDM.uniform(num_classes=3)
    assert pickle.loads(pickle.dumps(ldm)).matrix.tolist() == ldm.matrix.tolist()


def run_python(code):
    """What a fresh interpreter prints; JSON."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_library_loads_nothing():
    loaded = run_python(
        "import json, sys\nbefore = set(sys.modules)\nimport labeldist\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    assert set(loaded) - sys.stdlib_module_names == {"labeldist"}


def test_using_the_library_loads_nothing_optional():
    # Loading metric learning first tells what it brings along from what the library itself would.
    loaded = run_python(
        "import json, sys\n"
        "import torch, einops\n"
        "from pytorch_metric_learning import distances, losses, reducers\n"
        "before = set(sys.modules)\n"
        "from labeldist import *\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    assert set(loaded) - sys.stdlib_module_names - {"pytorch_metric_learning"} == {"labeldist"}


def test_using_the_library_loads_neither_its_trainer_nor_its_command_line():
    loaded = run_python(
        "import json, sys\nfrom labeldist import *\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('labeldist')]))"
    )
    assert {part_of(name) for name in loaded} <= set(CORE)
