#!/bin/bash
# Called by `make test`: installs nginx if it is missing, and stops the server that Debian starts. Tests start their own.
set -euo pipefail
command -v nginx >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "Please install: nginx" >&2; exit 1; }
apt-get update -qq
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends nginx-light # in that run level nothing is started
if [ -d /run/systemd/system ]; then systemctl disable --now nginx; fi
