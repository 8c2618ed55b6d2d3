#!/bin/sh
# Install the queues that the benchmarks measure beside ours, each in an environment of its own below
# .cache/peers; `peers.sh lock` resolves their versions again. What cannot be installed here is named
# in one line and left out: the benchmarks say so too.
set -eu
cd "$(dirname "$0")/.."

export UV_CACHE_DIR="$PWD/.cache/uv" npm_config_cache="$PWD/.cache/npm" UV_PYTHON_DOWNLOADS=never
# uv brings its own list of authorities; where the system has one, it may know a company's too.
[ ! -s /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS=true

uv=.venv/bin/uv
peers=.cache/peers
wanted=benchmarks/peers

say() {
    echo "peers: $1" >&2
}

# lock NAME PYTHON: resolve NAME.txt into NAME.lock for that Python and newer ones.
lock() {
    "$uv" pip compile --quiet --upgrade --universal --python-version "$2" --generate-hashes \
        --custom-compile-command "scripts/peers.sh lock" "$wanted/$1.txt" -o "$wanted/$1.lock"
}

# python_environment NAME LOCK PYTHON: make an environment that holds what the lock says.
python_environment() {
    target="$peers/$1"
    if cmp -s "$wanted/$2" "$target/.installed" && "$target/bin/python" -c '' 2>/dev/null; then
        return
    fi
    say "installing $target"
    "$uv" venv --quiet --clear --python "$3" "$target" &&
        "$uv" pip install --quiet --python "$target/bin/python" --require-hashes \
            -r "$wanted/$2" &&
        cp "$wanted/$2" "$target/.installed" || say "$1 left out: it could not be installed (see above)"
}

# Print the first Python that runs and is at least 3.MINOR: by name, else one of pyenv's.
find_python() {
    for candidate in python3.14 python3.13 python3.12 python3 \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin/python; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info < (3, $1))" 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

# Print NAME@VERSION of each dependency that package.json names.
node_packages() {
    .venv/bin/python -c 'import json, sys
for name, version in json.load(open(sys.argv[1]))["dependencies"].items(): print(f"{name}@{version}")' "$1"
}

node_environment() {
    target="$peers/node"
    if ! command -v npm >/dev/null 2>&1 || ! command -v node >/dev/null 2>&1; then
        say "graphile-worker and pg-boss left out: there is no node or npm here"
        return
    fi
    # The drivers run on the Node.js that is one of the packages.
    if cmp -s "$wanted/node/package.json" "$target/.installed" &&
        "$target/node_modules/.bin/node" -e '' 2>/dev/null; then
        return
    fi
    say "installing $target"
    mkdir -p "$target"
    # shellcheck disable=SC2046  # one word per package
    npm install --prefix "$target" --silent --no-save --no-audit --no-fund \
        $(node_packages "$wanted/node/package.json") &&
        cp "$wanted/node/package.json" "$target/.installed" ||
        say "graphile-worker and pg-boss left out: npm could not install them (see above)"
}

if [ "${1:-}" = lock ]; then
    lock requirements 3.11
    lock requirements-oban 3.12
    exit
fi
mkdir -p "$peers"
python_environment python requirements.lock .venv/bin/python
newer=$(find_python 12)
if [ -n "$newer" ]; then
    python_environment oban requirements-oban.lock "$newer"
else
    say "oban left out: it needs Python 3.12 or newer, and none was found"
fi
[ ! -f "$wanted/node/package.json" ] || node_environment
