from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(code: str) -> str:
    """A fresh interpreter: what is imported first is the matter here."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_and_open_clip_import_after_it_and_it_is_idempotent() -> None:
    code = "import models.encoder.torchvision_ops as ops; before = ops.declare(); import torchvision, open_clip; \
print(before == ops.declare())"
    assert run(code) == "True"


def test_after_torchvision_it_changes_nothing() -> None:
    code = "import models.encoder.torchvision_ops, torchvision.transforms, sys; del sys.modules['models.encoder.torchvision_ops']; \
import models.encoder.torchvision_ops as again; print(again.declare())"
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


OURS = [path for part in ("models", "adapters", "pipeline") for path in (ROOT / part).rglob("*.py")]


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_whoever_imports_torchvision_or_open_clip_imports_it_first(path: Path) -> None:
    imports = _imports(path)
    needy = [index for index, name in enumerate(imports) if name.split(".")[0] in ("open_clip", "torchvision")]
    assert not needy or imports.index("models.encoder.torchvision_ops") < needy[0]


def test_where_the_compiled_part_loads_nothing_is_declared() -> None:
    """A matching build declares the operators itself; a second declaration would be an error."""
    code = "import torch; torch.ops.load_library = lambda path: torch.library.define('torchvision::nms', \
'(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'); import models.encoder.torchvision_ops as ops; print(ops.declare())"
    assert run(code) == "False"
