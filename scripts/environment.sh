#!/bin/bash
# Called by the Makefile: `environment.sh VENV PYTHON EXTRA` makes VENV hold this project (editable) with the given extra.
# Does nothing if VENV was already made from the same pyproject.toml with the same Python.
set -euo pipefail
venv=$1 python=$2 extra=$3

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Roadworthy needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then # Debian ships venv apart from Python
    scripts/apt.sh python3-venv
fi

key=$({ "$python" -VV; pwd; echo "$extra"; cat pyproject.toml; } |
    "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
stamp=$venv/.made-$key
[ -e "$stamp" ] && exit 0

# Recreates a venv of another Python or an interrupted one; updates one whose pyproject.toml changed.
"$venv/bin/python" -c "import sys; sys.exit(sys.version_info[:2] != $("$python" -c 'import sys; print(tuple(sys.version_info[:2]))'))" \
    2>/dev/null || { rm -rf "$venv"; "$python" -m venv "$venv"; }
rm -f "$venv"/.made-* "$venv"/.compiled
echo "Installing Roadworthy with [$extra] into $venv (a minute, once) …"
# Modules are compiled when they are first imported: most installed modules never are.
pip=("$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile)
# uv needs a tenth of pip's processor time. Where it fails, pip may succeed: mirrors may be named in its configuration only.
"${pip[@]}" uv && "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --editable ".[$extra]" ||
    for attempt in 1 2 3; do # registries have bad moments; what was downloaded is kept in pip's cache between tries
        "${pip[@]}" --prefer-binary --editable ".[$extra]" && break
        [ "$attempt" = 3 ] && exit 1
        sleep $((attempt * 5))
    done
touch "$stamp"
