from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LATER = ("open_clip", "torchvision")
"""Packages that may be imported only once the operators are declared."""


def run(code: str) -> str:
    """Run in a fresh interpreter, since the order of imports is under test; return standard output."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_and_open_clip_import_after_the_encoder_package_and_a_second_declaration_changes_nothing() -> None:
    code = "import models.encoder; import models.encoder.torchvision_ops as ops; before = ops.declare_operators(); \
import torchvision, open_clip; print(before == ops.declare_operators())"
    assert run(code) == "True"


def test_after_torchvision_nothing_is_declared() -> None:
    code = "import models.encoder.torchvision_ops, torchvision.transforms, sys; del sys.modules['models.encoder.torchvision_ops']; \
import models.encoder.torchvision_ops as again; print(again.declare_operators())"
    assert run(code) == "False"


def _imports(path: Path) -> list[str]:
    """Names of the modules that a file imports, in order."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.module or ""))
    return [name for _, name in sorted(found)]


SOURCES = [path for part in ("models", "adapters", "pipeline") for path in (ROOT / part).rglob("*.py")]
ENCODER = ROOT / "models" / "encoder"


def test_the_encoder_package_declares_the_operators_before_its_modules_load() -> None:
    assert _imports(ENCODER / "__init__.py") == ["__future__", "models.encoder.torchvision_ops"]
    assert not any(name.split(".")[0] in ("models", *LATER) for name in _imports(ENCODER / "torchvision_ops.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_outside_the_encoder_package_import_it_before_torchvision_or_open_clip(path: Path) -> None:
    imports = _imports(path)
    later = [index for index, name in enumerate(imports) if name.split(".")[0] in LATER]
    first = next((index for index, name in enumerate(imports) if name.split(".")[:2] == ["models", "encoder"]), len(imports))
    assert path.is_relative_to(ENCODER) or not later or first < later[0]


def test_nothing_is_declared_where_the_compiled_extension_loads() -> None:
    """A matching build declares the operators itself, and torch refuses a second declaration."""
    code = "import torch; torch.ops.load_library = lambda path: torch.library.define('torchvision::nms', \
'(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'); import models.encoder.torchvision_ops as ops; \
print(ops.declare_operators())"
    assert run(code) == "False"
