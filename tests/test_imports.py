"""Packages depend on each other in one direction, and the engine runs on a bare GPU image."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "pruners": set(),
    "harness.accounting": set(),
    "harness.models": {"pruners", "harness.accounting", "harness.compat", "harness.notices"},
    "harness.engine": {"pruners", "harness.accounting", "harness.models", "harness.compat", "harness.notices"},
    "harness.benchmarks": {"pruners", "harness.engine"},
    "harness.runs": {"pruners", "harness.accounting", "harness.engine", "harness.models", "harness.benchmarks"},
    "harness.tables": {"pruners", "harness.accounting", "harness.benchmarks", "harness.runs"},
    "harness.report": {
        *("pruners", "harness.accounting", "harness.models", "harness.engine", "harness.benchmarks", "harness.runs"),
        "harness.tables",
    },
}
BARE = {
    "torch",
    "transformers",
    "huggingface_hub",
    "numpy",
    "PIL",
    "safetensors",
}  # the hub client comes with transformers


def imports(package: str) -> set[str]:
    """Modules that a package imports at run time; what is under TYPE_CHECKING does not count."""
    found = set()
    for file in (ROOT / package.replace(".", "/")).rglob("*.py"):
        tree = ast.parse(file.read_text())
        typing_only = {
            id(child)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for child in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in typing_only:
                continue
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"relative import in {file}"
                found.add(node.module or "")
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_direction(package: str) -> None:
    ours = {m for m in imports(package) if m.split(".")[0] in ("harness", "pruners", "tests", "scripts", "conf")}
    known = {*ALLOWED[package], package}
    assert not [m for m in ours if not any(m == k or m.startswith(k + ".") for k in known) and m != "harness"]


@pytest.mark.parametrize("package", ["pruners", "harness.accounting", "harness.models", "harness.engine"])
def test_light_packages(package: str) -> None:
    """Nothing heavier than torch, transformers, numpy and pillow; methods know torch alone."""
    outside = {m.split(".")[0] for m in imports(package)} - {"harness", "pruners"} - set(sys.stdlib_module_names)
    assert outside <= ({"torch"} if package == "pruners" else BARE | {"torchvision"})


def test_no_heavy_module_is_loaded() -> None:
    """What transformers pulls in by itself does not count; hydra, datasets, pandas, wandb, lmms-eval would."""
    code = (
        "import sys, pruners, harness, harness.engine, harness.models, harness.accounting, harness.notebook\n"
        "print(*[m for m in ('hydra', 'datasets', 'pandas', 'wandb', 'lmms_eval', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == ""
