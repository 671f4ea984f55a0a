"""The arrows of ARCHITECTURE.md: which room may import which, and which do without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nbrepro"
METHOD = ("agc", "freezing", "layers", "models", "optim", "probes")
#: Rooms from the ground up. A room may import its own layer and those below it.
LAYERS = (
    ("_files", "_malloc", "_policy", "_suggest"),
    (*METHOD, "spec"),
    ("data",),
    ("experiments", "records"),
    ("claims", "imagenet", "train"),
    ("sweep",),
    ("book",),
    ("cli",),
)
WITHOUT_TORCH = (
    "nbrepro.cli",
    "nbrepro.spec",
    "nbrepro.data.cards",
    "nbrepro.experiments",
    "nbrepro.records.ledger",
    "nbrepro.records.provenance",
    "nbrepro.records.timings",
    "nbrepro.claims.register",
    "nbrepro.claims.rules",
    "nbrepro.claims.findings",
    "nbrepro.claims.statistics",
    "nbrepro.claims.verdicts",
    "nbrepro.claims.questions",
    "nbrepro.claims.outcomes",
    "nbrepro.claims.scales",
    "nbrepro.claims.labels",
    "nbrepro.claims.tables",
    "nbrepro.sweep",
)


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {module(path): path for path in PACKAGE.rglob("*.py")}
ROOMS = {name: name.split(".")[1] for name in FILES if name != "nbrepro"}


def imported(node: ast.AST, *, deferred: bool) -> Iterator[str]:
    """Names that a tree imports, those inside functions too if ``deferred``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (name.name for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "imports are absolute"
            yield from (f"{child.module}.{name.name}" for name in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from ()
        elif deferred or not isinstance(child, ast.FunctionDef):
            yield from imported(child, deferred=deferred)


def imports(name: str, *, deferred: bool) -> set[str]:
    """What a module of ours imports: modules of ours, and top-level names of other packages."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    found = set()
    for target in imported(tree, deferred=deferred):
        ours = target
        while ours and ours not in FILES:
            ours = ours.rpartition(".")[0]
        found.add(ours or target.partition(".")[0])
    return found - {"nbrepro", name}


def chain_to_torch(name: str) -> tuple[str, ...]:
    """The modules through which importing ``name`` loads torch; empty if it does not."""
    chains: list[tuple[str, ...]] = [(name,)]
    seen = {name}
    for chain in chains:  # grows while it is read
        last = chain[-1]
        folder = last.rpartition(".")[0]  # is imported before what lies in it
        for target in imports(last, deferred=False) | ({folder} & ROOMS.keys()):
            if target in ("accelerate", "safetensors", "torch", "torchvision"):
                return (*chain, target)
            if target in FILES and target not in seen:
                seen.add(target)
                chains.append((*chain, target))
    return ()


def test_every_room_has_a_layer() -> None:
    assert set(ROOMS.values()) == {room for layer in LAYERS for room in layer}


@pytest.mark.parametrize("name", [name for name in ROOMS if ROOMS[name] in METHOD])
def test_method_rooms_need_torch_only(name: str) -> None:
    for target in imports(name, deferred=False):
        room = ROOMS.get(target, target)
        allowed = {*METHOD, "_policy", "_suggest", "torch"} | sys.stdlib_module_names
        assert room in allowed, f"{name} imports {target}"


def test_arrows_point_down_and_in_no_circle() -> None:
    height = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    arrows: dict[str, set[str]] = {room: set() for room in height}
    for name, room in ROOMS.items():
        for target in imports(name, deferred=True) & ROOMS.keys():
            below = ROOMS[target]
            assert height[below] <= height[room], f"{name} imports {target}"
            arrows[room] |= {below} - {room}
    TopologicalSorter(arrows).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_answers_in_a_second_loads_no_torch(name: str) -> None:
    chain = chain_to_torch(name)
    assert not chain, " imports ".join(chain)


def test_the_register_is_read_without_torch() -> None:
    code = """
import sys, nbrepro.cli
from nbrepro import claims
claims.register()
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
