"""How large the code is: lines, files, the longest functions, the most parameters.

``python tools/count_lines.py [FOLDER]`` counts lines of code (no docstrings, comments or blank
lines) of the Python files below a folder; default: metaface.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

IGNORED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
SHOWN = 8  # of the longest functions, and of those with most parameters


def code_lines(source: str) -> int:
    """Lines that hold code."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            docstrings.update(range(value.lineno, (value.end_lineno or 0) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in IGNORED:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def functions(path: Path) -> Iterator[tuple[int, int, str]]:
    """Lines without the docstring, parameters and the name of each function in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = sum(a.arg not in ("self", "cls") for a in given)
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            yield lines, parameters, f"{path}: {node.name}"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "metaface")
    files = sorted(folder.rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in files]
    every = [found for path in files for found in functions(path)]
    skips = sum(text.count("# fmt: skip") for text in texts)
    print(f"{sum(map(code_lines, texts))} lines of code in {len(files)} files, {skips} fmt: skip")
    print("longest functions (lines, without the docstring):")
    for lines, _, name in sorted(every, reverse=True)[:SHOWN]:
        print(f"{lines:6d}  {name}")
    print("most parameters:")
    for _, parameters, name in sorted(every, key=lambda one: one[1], reverse=True)[:SHOWN]:
        print(f"{parameters:6d}  {name}")


if __name__ == "__main__":
    main()
