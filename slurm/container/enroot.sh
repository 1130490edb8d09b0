#!/usr/bin/env bash
# The programs in an Enroot image, for Pyxis (srun --container-image). From the root of the source tree, where Enroot is:
#
#   slurm/container/enroot.sh /path/divergen.sqsh
#
# Then in the site's file: DIVERGEN_CONTAINER="enroot", DIVERGEN_IMAGE="/path/divergen.sqsh",
# DIVERGEN_MOUNTS="/scratch:/scratch".
set -euo pipefail
image="${1:?usage: slurm/container/enroot.sh IMAGE.sqsh}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
command -v enroot >/dev/null || { echo "enroot is not installed on this machine" >&2; exit 64; }
name="divergen-build-$$"
base="$(mktemp -u "${TMPDIR:-/tmp}/debian-XXXXXX.sqsh")"
clean() { enroot remove --force "$name" >/dev/null 2>&1 || true; rm -f "$base"; }
trap clean EXIT
enroot import --output "$base" docker://debian:12
enroot create --name "$name" "$base"
enroot start --root --rw --mount "$root:/source" "$name" bash -euc '
  export DEBIAN_FRONTEND=noninteractive DIVERGEN_DEPS=/opt/divergen-deps
  apt-get update -qq
  mkdir -p /opt/divergen
  tar -C /source --exclude=./build --exclude=./runs -cf - . | tar -C /opt/divergen -xf -
  cd /opt/divergen
  tools/build.sh
  find build/release -name "*.o" -delete
  ln -sf /opt/divergen/build/release/bin/divergen* /usr/local/bin/
  echo "DIVERGEN_SLURM_DIR=/opt/divergen/slurm" >>/etc/environment
'
enroot export --force --output "$image" "$name"
echo "$image" >&2
