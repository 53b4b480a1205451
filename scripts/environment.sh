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
    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv
fi

key=$({ "$python" -VV; pwd; echo "$extra"; cat pyproject.toml; } |
    "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
stamp=$venv/.made-$key
[ -e "$stamp" ] && exit 0

# Recreates a venv of another Python or an interrupted one; updates one whose pyproject.toml changed.
"$venv/bin/python" -c "import sys; sys.exit(sys.version_info[:2] != $("$python" -c 'import sys; print(tuple(sys.version_info[:2]))'))" \
    2>/dev/null || { rm -rf "$venv"; "$python" -m venv "$venv"; }
rm -f "$venv"/.made-*
echo "Installing Roadworthy with [$extra] into $venv (a minute or two, once) …"
# Modules are compiled at their first import: most installed modules are never imported.
for attempt in 1 2 3; do # registries have bad moments; what was downloaded is kept in pip's cache between tries
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --prefer-binary --no-compile --editable ".[$extra]" && break
    [ "$attempt" = 3 ] && exit 1
    sleep $((attempt * 5))
done
touch "$stamp"
