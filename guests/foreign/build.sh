#!/usr/bin/env bash
# Builds the guests that are not written in Rust into OUT_DIR:
#   js-hello.wasm          JavaScript on StarlingMonkey, WASI 0.2
#   js-quickjs-hello.wasm  JavaScript on QuickJS, WASI 0.3
#   python-hello.wasm      Python, WASI 0.2
# What is there and unchanged since is kept. The toolchains come from npm and
# PyPI at pinned versions, and are installed beside the output.
#
# Exit codes: 0 all built; 77 npm or pip is missing; anything else, it failed.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 OUT_DIR" >&2
    exit 2
fi
guests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$out/.toolchain

# Two runs at once would install over each other.
if command -v flock >/dev/null; then
    exec 9>"$out/.lock"
    flock 9
fi

# hash_of PATH...: one digest of all files below the paths and of this script.
hash_of() {
    (cd "$guests" && find "$@" foreign/build.sh -type f -not -path '*/__pycache__/*' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}
js_hash=$(hash_of js)
# The Python guest takes its WIT from what npm installs for the JavaScript ones.
python_hash=$(hash_of python js/package-lock.json)

# is_built NAME HASH
is_built() {
    [ -f "$out/$1.wasm" ] && [ "$(cat "$out/$1.inputs" 2>/dev/null)" = "$2" ]
}

# publish NAME HASH: moves a finished component into place, whole or not at all.
publish() {
    rm -f "$out/$1.inputs"
    mv "$work/$1.wasm" "$out/$1.wasm"
    echo "$2" >"$out/$1.inputs"
    echo "built $out/$1.wasm"
}

# quietly COMMAND...: runs it, and shows what it said only if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || {
        local code=$?
        cat "$work/log" >&2
        echo "failed: $*" >&2
        exit "$code"
    }
}

if is_built js-hello "$js_hash" && is_built js-quickjs-hello "$js_hash" &&
    is_built python-hello "$python_hash"; then
    echo "foreign guests are up to date in $out"
    exit 0
fi

if ! command -v npm >/dev/null; then
    echo "skipped: npm is missing, which the JavaScript guests are built with"
    exit 77
fi
if ! python3 -c 'import pip, venv, ensurepip' 2>/dev/null; then
    echo "skipped: python3 with pip and venv is missing, which the Python guest is built with"
    exit 77
fi

mkdir -p "$work/node"
cp "$guests/js/package.json" "$guests/js/package-lock.json" "$work/node/"
lock_hash=$(hash_of js/package-lock.json)
if [ "$(cat "$work/node/installed" 2>/dev/null)" != "$lock_hash" ]; then
    # Not `npm ci`: it insists on optional packages for other platforms, which
    # not every mirror has. The versions and digests are the lock file's all the same.
    quietly npm install --prefix "$work/node" --no-audit --no-fund
    echo "$lock_hash" >"$work/node/installed"
fi
jco=$work/node/node_modules/.bin/jco
wasi=$work/node/node_modules/@bytecodealliance/jco/lib/wit/builtin

# wit NAME WORLD_DIR VERSION: a WIT folder of that world and all of WASI.
wit() {
    rm -rf "$work/wit-$1"
    mkdir -p "$work/wit-$1"
    cp "$guests/$2"/*.wit "$work/wit-$1/"
    cp -r "$wasi/$3" "$work/wit-$1/deps"
}

if ! is_built js-hello "$js_hash"; then
    wit js-hello js/wit 0.2.12
    # StarlingMonkey is built against 0.2.10 and imports what was unstable there.
    sed -i -e 's/@0\.2\.12/@0.2.10/g' -e '/@unstable(feature = network-error-code)/d' \
        "$work"/wit-js-hello/deps/*/package.wit
    quietly "$jco" componentize "$guests/js/hello.js" \
        --wit "$work/wit-js-hello" --world-name handler --out "$work/js-hello.wasm"
    publish js-hello "$js_hash"
fi

if ! is_built js-quickjs-hello "$js_hash"; then
    wit js-quickjs-hello js/wit-p3 0.3.0
    quietly "$jco" componentize "$guests/js/hello-p3.js" --backend quickjs \
        --wit "$work/wit-js-quickjs-hello" --world-name handler --out "$work/js-quickjs-hello.wasm"
    publish js-quickjs-hello "$js_hash"
fi

if ! is_built python-hello "$python_hash"; then
    requirements_hash=$(hash_of python/requirements.txt)
    if [ "$(cat "$work/venv/installed" 2>/dev/null)" != "$requirements_hash" ]; then
        quietly python3 -m venv --clear "$work/venv"
        quietly "$work/venv/bin/python" -m pip install --disable-pip-version-check \
            --requirement "$guests/python/requirements.txt"
        echo "$requirements_hash" >"$work/venv/installed"
    fi
    wit python-hello python/wit 0.2.12
    quietly "$work/venv/bin/componentize-py" --wit-path "$work/wit-python-hello" --world handler \
        componentize --python-path "$guests/python" --output "$work/python-hello.wasm" app
    publish python-hello "$python_hash"
fi
