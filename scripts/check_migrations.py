"""Check that migrations are numbered 1, 2, 3 … and that none is renamed once it is listed.

`schema/versions/ORDER` lists every migration in order, one file name a line. It only ever grows at
its end: `--add` appends the new ones. A number used twice, left out or given to another file fails.
"""

import re
import sys
from pathlib import Path

VERSIONS = Path(__file__).parents[1] / "schema" / "versions"
_NUMBERED = re.compile(r"(\d{4})_\w+\.(py|sql)")


def problems(names: list[str], order: list[str]) -> list[str]:
    """Return what is wrong with the migrations `names`, given the committed `order`."""
    stems = sorted({Path(name).stem for name in names})
    found = [f"{name}: not named NNNN_words.sql" for name in names if not _NUMBERED.fullmatch(name)]
    for expected, stem in enumerate(stems, start=1):
        if not stem.startswith(f"{expected:04}_"):
            found.append(f"{stem}: number {expected:04} is expected here")
            break
    if order != stems[: len(order)]:
        gone = [stem for stem in order if stem not in stems]
        found.append(f"ORDER lists what is gone or moved: {', '.join(gone) or 'the order differs'}")
    elif len(order) < len(stems):
        new = ", ".join(stems[len(order) :])
        found.append(f"{new}: not in ORDER; run scripts/check_migrations.py --add")
    return found


def main() -> int:
    """Print every problem; with --add, first list the migrations that are new."""
    names = [path.name for path in VERSIONS.iterdir() if path.suffix in {".py", ".sql"}]
    manifest = VERSIONS / "ORDER"
    order = manifest.read_text().split() if manifest.exists() else []
    if sys.argv[1:] == ["--add"]:
        order += sorted({Path(name).stem for name in names} - set(order))
        manifest.write_text("\n".join(order) + "\n")
    found = problems(names, order)
    for problem in found:
        sys.stderr.write(f"schema/versions: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
