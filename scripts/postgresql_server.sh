#!/bin/bash
# Called by `make test`: installs PostgreSQL when the environment's Python has no pgserver. Tests start their own; the one that Debian starts is stopped.
set -euo pipefail
"$1/bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("pgserver") is None)' && exit 0
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "Please install: postgresql" >&2; exit 1; }
apt-get update -qq
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends postgresql # in that run level nothing is started
if [ -d /run/systemd/system ]; then systemctl disable --now postgresql; fi
