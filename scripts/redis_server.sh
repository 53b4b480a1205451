#!/bin/bash
# Called by `make test`: installs the Redis server and openssl for its certificates if they are missing, and stops the server that Debian starts. Tests start their own.
set -euo pipefail
command -v redis-server >/dev/null && command -v openssl >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "Please install: redis-server openssl" >&2; exit 1; }
apt-get update -qq
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends redis-server openssl # in that run level nothing is started
if [ -d /run/systemd/system ]; then systemctl disable --now redis-server; fi
