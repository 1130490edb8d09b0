#!/usr/bin/env bash
# Sets up, builds, and runs the tests through ctest.
#
#   tests/run.sh                  all tests but the benches, the long ones, and those that start a Slurm
#   tests/run.sh --label unit     one label: unit mpi parity fault fuzz slurm e2e bench
#   tests/run.sh --label slurm    also installs Slurm, which these tests start for themselves (as root); with long ones.
#   tests/run.sh -- -R parity     anything after -- goes to ctest
#
# DIVERGEN_FIXTURES=DIR   folder with detector/ generation/ eval/ augment/ for the parity tests (default: tests/fixtures)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
select=(-LE '^(bench|long|slurm)$')
with_slurm=0
while [ $# -gt 0 ]; do
  case "$1" in
    --label) [ $# -ge 2 ] || { echo "--label wants a name" >&2; exit 64; }; select=(-L "^$2\$"); [ "$2" != slurm ] || with_slurm=1; shift 2 ;;
    -h|--help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) echo "unknown option '$1'; see $0 --help" >&2; exit 64 ;;
  esac
done
if [ "$with_slurm" = 1 ]; then "$root/tools/setup.sh" --with-slurm; fi
"$root/tools/build.sh"
# Each test is one thread; MPI tests say how many processors they take.
export OMP_NUM_THREADS=1
cd "$root/build/release"
exec ctest -j "$(nproc)" --output-on-failure "${select[@]}" "$@"
