#!/usr/bin/env bash
# Runs one libFuzzer program for a while, from its seeds and what earlier runs found.
#
#   run_fuzz.sh PROGRAM SEEDS WORK    SEEDS is only read (may be absent); the grown corpus and crashes go to WORK
#
# DIVERGEN_FUZZ_SECONDS   length (default 5; 30 in nightly runs, 3600 before a release)
set -euo pipefail
program="$1" seeds="$2" work="$3"
mkdir -p "$work/corpus" "$work/crashes"
folders=("$work/corpus")
[ -d "$seeds" ] && folders+=("$seeds")
# One input may take 512 MB and 10 s at most: more is a finding, as a crash is.
seconds="${DIVERGEN_FUZZ_SECONDS:-5}"
seed="${DIVERGEN_FUZZ_SEED:-$([ "$seconds" -le 5 ] && echo 1 || echo 0)}"
if ! "$program" -max_total_time="$seconds" -seed="$seed" -rss_limit_mb=512 -timeout=10 -print_final_stats=1 \
    -verbosity=0 -artifact_prefix="$work/crashes/" "${folders[@]}"; then
  echo "$(basename "$program") found something: the input lies in $work/crashes; make a unit test of it" >&2
  exit 1
fi
