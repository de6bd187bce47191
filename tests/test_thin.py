"""How large the package may become: a line has to earn its place.

The limits may be raised; whoever does so says why in the commit.
"""

from __future__ import annotations

import ast
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "workbench").rglob("*.py"))

CODE = 14_910  # lines that are neither blank, nor comment, nor docstring
DOCSTRINGS = 3_400
OF_A_MODULE = 450
OF_A_FUNCTION = 70
TEMPLATES = 770
README = 195

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def docstring_lines(tree: ast.AST) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            lines |= {*range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    return lines


@cache
def code_lines(module: Path) -> set[int]:
    with module.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in NO_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return lines - docstring_lines(ast.parse(module.read_text("utf-8")))


def length(file: Path) -> int:
    return len(file.read_text("utf-8").splitlines())


def test_lines_are_counted_as_said(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""What\n\nit is."""\n\nx = (  # why\n    1\n)\n# a comment\n')
    assert docstring_lines(ast.parse(module.read_text())) == {1, 2, 3}
    assert code_lines(module) == {5, 6, 7}


def test_the_package_is_thin() -> None:
    code = {str(module): len(code_lines(module)) for module in MODULES}
    assert sum(code.values()) <= CODE
    assert {name: lines for name, lines in code.items() if lines > OF_A_MODULE} == {}
    trees = [ast.parse(module.read_text("utf-8")) for module in MODULES]
    assert sum(len(docstring_lines(tree)) for tree in trees) <= DOCSTRINGS


def test_functions_are_short() -> None:
    for module in MODULES:
        lines = code_lines(module)
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = lines & {*range(node.lineno, (node.end_lineno or 0) + 1)}
                assert len(own) <= OF_A_FUNCTION, f"{module.name}: {node.name}"


def test_pages_and_readme_are_short() -> None:
    assert sum(map(length, (ROOT / "workbench").rglob("*.j2"))) <= TEMPLATES
    assert length(ROOT / "README.md") <= README
