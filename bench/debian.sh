#!/usr/bin/env bash
# Programs that the measurement starts and pip cannot bring. Installs them when root, else names them.
# Without one of them its row is missing; only gcc is needed for anything at all.
set -euo pipefail
PATH=$PATH:/usr/sbin

missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v nginx >/dev/null || missing+=(nginx-light)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v npm >/dev/null || missing+=(nodejs npm)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "for all rows: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
fi
