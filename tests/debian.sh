#!/usr/bin/env bash
# Real parts that the tests start and pip cannot bring. Installs them when root, else names them.
set -euo pipefail

missing=()
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
command -v curl >/dev/null || missing+=(curl)
command -v npm >/dev/null || missing+=(nodejs npm)
# The gateway compiled: a compiler, its C library, and the headers of the Python that runs the tests.
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
python=.venv/bin/python
[ -x "$python" ] || python=python3
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || missing+=(python3-dev)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "the tests need Debian packages: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
