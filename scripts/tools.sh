#!/bin/bash
# Called by the Makefile: `tools.sh [load] [redis] [nginx] [postgresql]` installs the programs of these that are missing: the load
# generator with the tool that pins processes to cores, and servers. Tests start their own servers; those that Debian starts are stopped.
set -euo pipefail
missing=() servers=()
needs() { # PROGRAM PACKAGE [SERVER]
    command -v "$1" >/dev/null && return
    missing+=("$2") servers+=(${3:+"$3"})
}
for tool in "$@"; do
    case $tool in
    load) needs wrk wrk && needs taskset util-linux ;;
    redis) needs redis-server redis-server redis-server && needs openssl openssl ;; # openssl makes its certificates
    nginx) needs nginx nginx-light nginx ;;
    postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || needs initdb postgresql postgresql ;;
    esac
done
[ ${#missing[@]} = 0 ] && exit 0
status=0
"$(dirname "$0")/apt.sh" "${missing[@]}" || status=1
if [ -d /run/systemd/system ]; then
    for server in "${servers[@]}"; do systemctl disable --now "$server" || status=1; done
fi
exit $status
