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
# A Slurm cluster. Its daemons are not on the PATH of everybody.
for needed in slurmctld slurmd sbatch:slurm-client slurmdbd slurmrestd munged:munge mariadbd:mariadb-server; do
  PATH=$PATH:/usr/sbin command -v "${needed%%:*}" >/dev/null || missing+=("${needed##*:}")
done
for needed in auth_jwt:slurm-wlm-jwt-plugin topology_tree:slurm-wlm-basic-plugins accounting_storage_mysql:slurm-wlm-mysql-plugin; do
  ls /usr/lib/*/slurm-wlm/"${needed%%:*}.so" >/dev/null 2>&1 || missing+=("${needed##*:}")
done
# What runs on its nodes is not this environment's Python, which other users may not be let into.
[ -x /usr/bin/python3 ] || missing+=(python3)
# In front of several gateways.
PATH=$PATH:/usr/sbin command -v haproxy >/dev/null || missing+=(haproxy)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing Debian packages: ${missing[*]}"
  # The tests start daemons themselves: Debian is asked not to, by a file of its own protocol.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "the tests need Debian packages: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
