#!/bin/bash
# Called by the scripts beside it: `apt.sh PACKAGE…` installs Debian's packages, one call after the other, and starts none of their servers.
set -euo pipefail
command -v apt-get >/dev/null || { echo "Please install: $*" >&2; exit 1; }
exec 9</var/cache/apt
flock 9
apt-get update -qq
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@" # in that run level nothing is started
