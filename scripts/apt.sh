#!/bin/bash
# Called by the scripts beside it: `apt.sh PACKAGE…` installs Debian's packages, one call after the other, and starts none of their servers.
# Without one of them the others are installed all the same, and the call fails.
set -euo pipefail
command -v apt-get >/dev/null || { echo "Please install: $*" >&2; exit 1; }
exec 9</var/cache/apt
flock 9
install() { RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@"; } # in that run level nothing is started
apt-get update -qq
install "$@" && exit
[ $# = 1 ] && exit 1
status=0
for package; do install "$package" || status=1; done
exit $status
