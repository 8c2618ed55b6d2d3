"""Check everything in deploy/: the image's recipe, the systemd units, the Kubernetes manifests.

Each is checked by what its own users would run it through: `systemd-analyze` for units (where there
is one), the published schemas of Kubernetes for manifests; and for what those do not ask: that
nothing runs as root, writes to its root file system, or keeps a capability. Exits with 1 and one
line for each fault.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from orchestrator.config import KEYS, Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = "1.31"
# Of `systemd-analyze security`, in tenths: below 2.0 is what it calls OK.
EXPOSURE_MAX = 20
# The user of the image, and of every pod.
UID = "65532"
_ENVIRONMENT = {f"ORCHESTRATOR_{key.replace('.', '_').upper()}" for key in KEYS} | {"DATABASE_URL"}


def main() -> int:
    """Print every fault; return 1 if there is one."""
    faults = [*containerfile(), *units(), *manifests()]
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201
    return bool(faults)


def containerfile() -> Iterator[str]:
    """Yield what is wrong with the image's recipe."""
    path = DEPLOY / "Containerfile"
    text = re.sub(r"\\\n", " ", path.read_text())
    steps = [line.split(maxsplit=1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    entrypoint = dict(steps).get("ENTRYPOINT", "")
    users = [rest for word, rest in steps if word == "USER"]
    if users[-1:] != [f"{UID}:{UID}"]:
        yield f"{path.name}: ends as user {users[-1:]}, not as {UID}:{UID}, so it may be root"
    if not entrypoint.startswith("["):
        yield f"{path.name}: ENTRYPOINT is a shell's, which swallows SIGTERM: write a JSON array"
    for word, rest in steps:
        if word == "ADD":
            yield f"{path.name}: ADD fetches and unpacks: use COPY"
        if word == "FROM" and re.search(r":latest\b|^[^:]+( AS|$)", rest):
            yield f"{path.name}: FROM {rest} moves: name a version"
        if (
            word == "RUN"
            and "pip install" in rest
            and not re.search(r"require-hashes|no-index", rest)
        ):
            yield f"{path.name}: installs what no hash pins: {rest}"
        if word == "COPY" and not rest.startswith("--from"):
            yield from _copied(path, rest.split()[0])
    lock = DEPLOY / "requirements.lock"
    if len(re.findall(r"^[a-z].*==", lock.read_text(), re.M)) > lock.read_text().count("--hash="):
        yield f"{lock.name}: not every package has a hash: run `make lock`"


def _copied(path: Path, source: str) -> Iterator[str]:
    # The wheel is built before the image; all else lies in the checkout.
    if not source.startswith("dist/") and not (DEPLOY.parent / source).exists():
        yield f"{path.name}: COPY of {source}, which does not exist"


def units() -> Iterator[str]:
    """Yield what is wrong with the systemd units."""
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        text = path.read_text()
        if not (found := re.search(r"^ExecStart=\S+/orchestrator (\w+)", text, re.M)):
            yield f"{path.name}: does not start an orchestrator"
        elif found[1] not in ("run", "worker"):
            yield f"{path.name}: starts {found[1]!r}, which does not stay"
        if (
            _seconds(text, "TimeoutStopSec") <= Settings().worker.drain_timeout_s
            and "worker" in path.name
        ):
            yield f"{path.name}: is killed before worker.drain_timeout_s is over"
        if shutil.which("systemd-analyze"):
            yield from _analyzed(path, text)


def _seconds(text: str, name: str) -> float:
    found = re.search(rf"^{name}=(\d+)s$", text, re.M)
    return float(found[1]) if found else 0.0


def _analyzed(path: Path, text: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        # The program it starts lies elsewhere here.
        unit = Path(folder) / path.name.replace("@", "@1")
        unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.M))
        verified = _run("systemd-analyze", "verify", "--man=no", str(unit))
        exposed = _run(
            "systemd-analyze",
            "security",
            "--offline=true",
            f"--threshold={EXPOSURE_MAX}",
            str(unit),
        )
    complaints = [line for line in verified.stderr.splitlines() if path.stem.rstrip("@") in line]
    yield from (f"{path.name}: {line}" for line in complaints)
    if exposed.returncode:
        yield f"{path.name}: more exposed than {EXPOSURE_MAX / 10}: {exposed.stdout[-200:]}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def manifests() -> Iterator[str]:
    """Yield what is wrong with the Kubernetes manifests."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            where = f"{path.name}: {document.get('kind')} {document['metadata']['name']}"
            try:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{where}: {error.message}"
            if document["kind"] == "ConfigMap":
                unknown = document["data"].keys() - _ENVIRONMENT
                yield from (f"{where}: no setting is called {name}" for name in sorted(unknown))
            if pod := document.get("spec", {}).get("template", {}).get("spec"):
                yield from (f"{where}: {fault}" for fault in _pod(pod))


def _pod(pod: dict[str, Any]) -> Iterator[str]:
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or str(security.get("runAsUser")) != UID:
        yield f"may run as another user than {UID}"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "is handed a token of the cluster, which it has no use for"
    for container in pod["containers"]:
        yield from _container(container, stays=pod.get("restartPolicy") != "Never")
        worker = container["args"][0] == "worker"
        patience = pod.get("terminationGracePeriodSeconds", 30)
        if worker and patience <= Settings().worker.drain_timeout_s:
            yield "is killed before worker.drain_timeout_s is over"


def _container(container: dict[str, Any], *, stays: bool) -> Iterator[str]:
    security = container.get("securityContext", {})
    if not security.get("readOnlyRootFilesystem"):
        yield "its root file system can be written"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "privileges can be gained"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "has no limit of memory"
    ports = {port["name"] for port in container.get("ports", ())}
    for probe in ("livenessProbe", "readinessProbe") if stays else ():
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("path") not in ("/livez", "/readyz") or asked.get("port") not in ports:
            yield f"its {probe} asks for nothing that is served"
    for variable in container.get("env", ()):
        if variable["name"] not in _ENVIRONMENT:
            yield f"no setting is called {variable['name']}"


if __name__ == "__main__":
    sys.exit(main())
