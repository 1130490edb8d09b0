#!/usr/bin/env bash
# Set-up and release build: what jobs/mini.sh and tests/run.sh share. Does no work twice.
#
#   tools/build.sh [TARGET...]      (default: everything)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
say() { printf '\033[1m[build]\033[0m %s\n' "$*" >&2; }
if [ -n "${NO_COLOR:-}" ] || ! [ -t 2 ]; then say() { printf '[build] %s\n' "$*" >&2; }; fi

"$root/tools/setup.sh"
torch="$("$root/tools/setup.sh" --print-deps)/torch"
build="$root/build/release"
if [ ! -f "$build/build.ninja" ]; then
  say "configuring in build/release"
  mkdir -p "$build"
  (cd "$root" && cmake --preset release "-DDIVERGEN_TORCH_ROOT=${DIVERGEN_TORCH_ROOT:-$torch}") >"$build/configure.log" 2>&1 \
    || { cat "$build/configure.log" >&2; say "cmake failed; the lines above say why"; exit 1; }
fi
# Compilers of LibTorch code take 1 to 2 GB each: no more at once than the memory holds.
memory_gb=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
jobs=$(nproc)
[ $((jobs * 2)) -le "$memory_gb" ] || jobs=$((memory_gb / 2 > 1 ? memory_gb / 2 : 1))
say "building with $jobs jobs (a first build takes about ten minutes on two cores)"
start=$SECONDS
if [ -t 2 ]; then
  ninja -C "$build" -j "$jobs" "$@" >&2
else
  ninja -C "$build" -j "$jobs" --quiet "$@" >&2
fi
say "built in $((SECONDS - start)) s"
