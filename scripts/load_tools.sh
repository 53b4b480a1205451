#!/bin/bash
# Called by `make bench-…`: installs the load generator and the tool that pins processes to cores, if they are missing.
set -euo pipefail
missing=()
command -v wrk >/dev/null || missing+=(wrk)
command -v taskset >/dev/null || missing+=(util-linux)
[ ${#missing[@]} = 0 ] && exit 0
command -v apt-get >/dev/null || { echo "Please install: ${missing[*]}" >&2; exit 1; }
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
