"""Every benchmark runs to its end on the smallest input, and then writes no record."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_smoke(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path / "results"))
    done = subprocess.run(
        [sys.executable, script, "--smoke"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert " over " in done.stdout or " against " in done.stdout, "no case was compared"
    assert list(tmp_path.rglob("*.json")) == []
