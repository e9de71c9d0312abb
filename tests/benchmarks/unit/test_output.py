"""The output of a benchmark: with --json one object on standard output, whatever else the run writes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BENCHMARKS = Path(__file__).parents[1]
WITH_JSON = sorted(path.stem for path in BENCHMARKS.glob("*.py") if 'add_argument("--json"' in path.read_text(encoding="utf-8"))

SMALL = [
    pytest.param("report", ["--reports", "2", "--rounds", "1"], id="report"),
    pytest.param("rescore", ["--films", "1", "--rounds", "1"], id="rescore", marks=pytest.mark.slow),
    pytest.param("scoring", ["--films", "1", "--rounds", "1", "--naive", "1"], id="scoring", marks=pytest.mark.slow),
]
"""Benchmarks of at most some minutes; rescore and scoring log while they run."""

NOISY = """
import os, subprocess, sys
import structlog
from tests.benchmarks.output import format_result, prints_result_alone

@prints_result_alone
def main() -> str:
    print("a line of Python")
    os.write(1, b"a line of a library in C\\n")
    subprocess.run(["echo", "a line of a child"], check=True)
    structlog.get_logger().info("an event")
    return format_result({"ratios": {}}, as_json=True)

main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)


def test_log_lines_of_any_origin_go_to_standard_error() -> None:
    done = run("-c", NOISY)
    assert done.stdout == '{"ratios": {}}\n'
    for words in ("a line of Python", "a line of a library in C", "a line of a child", "an event"):
        assert words in done.stderr


def test_every_benchmark_of_the_page_gives_an_object() -> None:
    from tests.benchmarks.performance import NAMES

    assert set(NAMES) <= set(WITH_JSON)


@pytest.mark.parametrize("name", WITH_JSON)
def test_every_benchmark_prints_its_result_alone(name: str) -> None:
    """Its main gives the text to `prints_result_alone`, from `format_result`, and nothing of it writes by itself."""
    module = ast.parse((BENCHMARKS / f"{name}.py").read_text(encoding="utf-8"))
    (main,) = (node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert [ast.unparse(decorator) for decorator in main.decorator_list] == ["prints_result_alone"]
    results = [ast.unparse(node.value) for node in ast.walk(main) if isinstance(node, ast.Return) and node.value is not None]
    assert len(results) == 1
    assert results[0].startswith("format_result(")
    written = [ast.unparse(node) for node in ast.walk(module) if isinstance(node, ast.Call)]
    assert not [call for call in written if call.startswith(("print(", "sys.stdout.write(", "sys.__stdout__.write("))]


@pytest.mark.parametrize(("name", "words"), SMALL)
def test_a_benchmark_prints_one_json_object(name: str, words: list[str]) -> None:
    done = run("-m", f"tests.benchmarks.{name}", *words, "--json")
    assert done.stdout.count("\n") == 1
    assert "ratios" in json.loads(done.stdout)
