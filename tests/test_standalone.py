"""The download ``agc.py``: alone it does what the package does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nbrepro import agc
from nbrepro.book.standalone import standalone

ROOT = Path(__file__).parents[1]

#: Clips the parameters of a file by the module beside it, where there is no nbrepro.
ALONE = """
import sys
sys.modules["nbrepro"] = None  # as where it is not installed
sys.path.insert(0, sys.argv[1])
import torch

import agc

named = torch.load(f"{sys.argv[1]}/before.pt")
parameters = []
for name, (weight, gradient) in named.items():
    weight.grad = gradient
    parameters.append((name, weight))
clipped = agc.clip_grads_(parameters, exclude=["fc*"])
optimizer = torch.optim.SGD([weight for _, weight in parameters], lr=0.1)
agc.attach(optimizer, parameters, exclude=["fc*"])
optimizer.step()
try:
    agc.clip_grads_(parameters, exclude=["head"])
except ValueError as error:
    print(error)
after = {name: weight.detach() for name, weight in parameters}
torch.save((after, float(agc.share(clipped))), f"{sys.argv[1]}/after.pt")
"""


def test_the_one_file_works_alone_and_gives_equal_results(tmp_path: Path) -> None:
    (tmp_path / "agc.py").write_text(standalone((ROOT / "LICENSE").read_text("utf-8")), "utf-8")
    torch.manual_seed(0)
    shapes = {"conv": (5, 3, 2, 2), "gain": (5, 1, 1, 1), "bias": (5,), "fc": (4, 5)}
    named = {n: (torch.randn(shape), 0.01 * torch.randn(shape)) for n, shape in shapes.items()}
    torch.save(named, tmp_path / "before.pt")
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, str(tmp_path / "alone.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'head' matches no name" in done.stdout
    after, share = torch.load(tmp_path / "after.pt")

    for weight, gradient in named.values():
        weight.grad = gradient
    parameters = [(name, weight) for name, (weight, _) in named.items()]
    clipped = agc.clip_grads_(parameters, exclude=["fc*"])
    assert share == pytest.approx(float(agc.share(clipped)))
    assert 0 < share < 1
    torch.optim.SGD([weight for _, weight in parameters], lr=0.1).step()
    for name, weight in parameters:
        assert torch.equal(weight, after[name]), name


def test_it_imports_torch_and_the_standard_library_and_carries_its_licence() -> None:
    text = standalone("MIT License\n\nCopyright (c) somebody")
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    froms = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    modules = {name.name for node in imports for name in node.names} | {n.module for n in froms}
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"torch"}
    assert text.startswith("# agc.py of nbrepro")
    assert "\n# MIT License\n#\n# Copyright (c) somebody\n" in text
