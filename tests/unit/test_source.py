"""What the source may not do: run what it was sent, or take a dependency that is not pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "orchestrator").rglob("*.py"))

# Each reads objects, and so code, from bytes.
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
# Who imports by a name, and whose name it is: never one out of the database.
IMPORTERS = {
    "__init__.py": "the public names of this package",
    "worker/__init__.py": "the public names of this package",
    "cli/run.py": "MODULE:APP, as whoever starts the worker typed it",
    "worker/child.py": "the module of a handler that the worker's own App registered",
}
# Its pipes pickle. Both ends are the worker and the process it started itself, over an inherited
# descriptor; what a stranger sent travels in them as the text of a payload.
PIPES = {"worker/process.py", "worker/child.py"}


@cache
def walk() -> list[tuple[str, ast.AST]]:
    return [
        (str(path.relative_to(ROOT / "orchestrator")), node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
    ]


def test_nothing_reads_objects_from_bytes_or_runs_text() -> None:
    assert len(MODULES) > 100
    for path, node in walk():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            roots = {name.partition(".")[0] for name in [*names, *([module] if module else [])]}
            assert not roots & FORBIDDEN_IMPORTS, path
            if "multiprocessing" in roots:
                assert path in PIPES, path
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN_CALLS, f"{path}: {called}"
            assert called not in {"os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}, path
            shell = [word for word in node.keywords if word.arg == "shell"]
            assert not shell, f"{path}: a shell reads what it is given"


def test_modules_are_imported_by_name_only_where_the_name_is_our_own() -> None:
    found = {
        path
        for path, node in walk()
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
    }
    assert found == set(IMPORTERS)


def test_every_locked_dependency_has_its_hashes_and_names_no_host() -> None:
    for name in ("requirements.lock", "scripts/uv.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        blocks = re.split(
            r"^(?=[a-zA-Z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.M), flags=re.M
        )
        pinned = [block for block in blocks if block.strip()]
        assert pinned
        for block in pinned:
            assert re.match(r"[\w.\[\]-]+==[\w.!+]+", block), block
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block
    assert "--require-hashes" in (ROOT / "scripts" / "bootstrap.sh").read_text()


def test_an_audit_that_cannot_ask_says_so() -> None:
    offline = ["-s", "osv", "--osv-url", "http://127.0.0.1:9/", "--timeout", "1"]
    done = subprocess.run(
        [sys.executable, "scripts/audit.py", *offline],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("audit: the advisory service could not be asked")
    assert done.stderr.count("\n") == 1
