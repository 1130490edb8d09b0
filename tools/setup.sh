#!/usr/bin/env bash
# Installs everything that divergen needs to build and run on Debian 12: Debian packages (as root or through sudo) and
# LibTorch from the PyPI wheel, into a folder of its own. Prints nothing to do when there is nothing to do.
#
#   tools/setup.sh [--with-slurm] [--with-fonts] [--print-deps]
#
# DIVERGEN_DEPS   folder for LibTorch (default: ${XDG_CACHE_HOME:-~/.cache}/divergen)
set -euo pipefail

TORCH_VERSION=2.11.0
PACKAGES=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates
  python3 python3-pip python3-numpy
  openmpi-bin libopenmpi-dev libhdf5-dev libopencv-core-dev libopencv-imgproc-dev libopencv-imgcodecs-dev
  libspdlog-dev libtomlplusplus-dev libcli11-dev nlohmann-json3-dev libsimdjson-dev libxxhash-dev zlib1g-dev
  libsentencepiece-dev libicu-dev libgtest-dev libbenchmark-dev libdeflate-dev libjpeg62-turbo-dev libssl-dev wordnet-base
  clang-16 libclang-rt-16-dev
)
# A Slurm that the tests of label slurm start for themselves, and what checks its scripts.
SLURM_PACKAGES=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge shellcheck util-linux)

deps="${DIVERGEN_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/divergen}"
torch_dir="$deps/torch-$TORCH_VERSION"

say() { printf '\033[1m[setup]\033[0m %s\n' "$*" >&2; }
die() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

for arg in "$@"; do
  case "$arg" in
    --with-slurm) PACKAGES+=("${SLURM_PACKAGES[@]}") ;;
    --with-fonts) PACKAGES+=(fonts-noto-color-emoji) ;;
    --print-deps) echo "$torch_dir"; exit 0 ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option '$arg'; see $0 --help" ;;
  esac
done

command -v dpkg-query >/dev/null || die "this script knows Debian and its relatives only; install the packages named in README.md, section 'Other systems'"

missing=()
for package in "${PACKAGES[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "these Debian packages are missing, and there is neither root nor sudo to install them: ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq || die "apt-get update failed; is there a network?"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 \
    || die "apt-get install failed; the lines above say why"
fi

if [ ! -e "$torch_dir/.complete" ]; then
  # torch_cpu itself needs no CUDA library, but the wheel links its parts to them; pip brings the matching set.
  say "installing LibTorch $TORCH_VERSION from PyPI into $torch_dir (about 5 GB on disk)"
  rm -rf "$torch_dir" "$torch_dir.part"
  mkdir -p "$deps"
  python3 -m pip install --quiet --disable-pip-version-check --no-compile --no-cache-dir --root-user-action=ignore \
    --target "$torch_dir.part" "torch==$TORCH_VERSION" >&2 || die "pip could not install torch==$TORCH_VERSION"
  touch "$torch_dir.part/.complete"
  mv "$torch_dir.part" "$torch_dir"
fi

# The CUDA headers that come with the wheel name a few that come in packages of their own.
headers="$torch_dir/nvidia/cu13/include"
if [ ! -e "$headers/crt/host_defines.h" ] || [ ! -e "$headers/nv/target" ]; then
  say "installing the CUDA headers that LibTorch's need"
  rm -rf "$torch_dir.headers"
  python3 -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --root-user-action=ignore \
    --target "$torch_dir.headers" "nvidia-cuda-crt==13.0.*" "nvidia-cuda-cccl==13.0.*" >&2 \
    || die "pip could not install nvidia-cuda-crt and nvidia-cuda-cccl"
  mkdir -p "$headers"
  cp -r "$torch_dir.headers/nvidia/cu13/include/." "$headers/"
  rm -rf "$torch_dir.headers"
fi
