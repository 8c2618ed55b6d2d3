"""What is built installs and runs elsewhere: the wheel carries the schema."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from orchestrator.store import migrate

ROOT = Path(__file__).parents[2]


def test_an_editable_install_finds_the_schema_of_the_checkout() -> None:
    assert migrate.schema_dir() == ROOT / "schema"
    assert (migrate.schema_dir() / "versions" / "0001_core.sql").is_file()


@pytest.mark.timeout(300)
def test_the_wheel_installs_in_a_clean_environment_and_runs_the_demo(tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT))
    (wheel,) = dist.glob("*.whl")
    assert len(list(dist.glob("*.tar.gz"))) == 1
    clean = tmp_path / "clean"
    venv.create(clean)
    python = clean / "bin" / "python"
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    _run(str(uv), "pip", "install", "--quiet", "--python", str(python), str(wheel))

    done = _run(
        str(clean / "bin" / "orchestrator"),
        "demo",
        "--seconds",
        "2",
        "--json",
        "--figure",
        str(tmp_path / "demo.svg"),
        cwd=tmp_path,
    )

    summary = json.loads(done.strip().splitlines()[-1])
    assert (summary["lost"], summary["duplicated"], summary["over_cap"]) == (0, 0, 0)
    assert "<svg" in (tmp_path / "demo.svg").read_text()[:2000]
    script = _run(str(clean / "bin" / "orchestrator"), "migrate", "--sql", cwd=tmp_path)
    assert "create table orchestrator.task_queue" in script


def _run(*command: str, cwd: Path = ROOT) -> str:
    # Nor is what it compiles kept beside what the checkout does: it is of this run alone.
    ours = ("PYTHONPATH", "PYTHONPYCACHEPREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
