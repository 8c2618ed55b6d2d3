#!/bin/sh
# Create .venv with the locked dependencies and this project in it. Needs only Python 3.11 or newer
# with venv and pip. Everything is written inside the checkout: HOME may be read-only or absent.
set -eu
cd "$(dirname "$0")/.."

export PIP_CACHE_DIR="$PWD/.cache/pip" UV_CACHE_DIR="$PWD/.cache/uv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_PYTHON_DOWNLOADS=never
# uv brings its own list of authorities; where the system has one, it may know a company's too.
[ ! -s /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS=true

fail() {
    echo "bootstrap: $1" >&2
    exit 1
}

# Print the first Python that will do: the one asked for, the usual one, then any newer by name.
find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

python=$(find_python)
[ -n "$python" ] || fail "missing: Python 3.11 or newer (looked for ${PYTHON:-python3, python3.11 … python3.14}; name one with PYTHON=)"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "missing: the venv and pip modules of $python (on Debian or Ubuntu: apt install python3-venv)"
if ldd --version 2>&1 | grep -qi musl; then
    fail "missing: glibc (there are no PostgreSQL binaries for musl; use another system or set up by hand)"
fi
mkdir -p .cache 2>/dev/null && [ -w .cache ] || fail "cannot write to the checkout $PWD"

echo "bootstrap: preparing .venv (a minute, the first time)"
# An interpreter that was upgraded or a checkout that was moved leaves a .venv that does not run.
.venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r scripts/uv.txt ||
    fail "pip could not install uv: is the package index reachable?"
.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --no-build \
    -r requirements.lock || fail "uv could not install the locked dependencies (see above)"
# The backend is among the locked packages, so that this step needs no network.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e . ||
    fail "the project itself could not be installed (see above)"
touch .venv/.bootstrapped
