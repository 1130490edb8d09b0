#!/usr/bin/env bash
# tsan_queue (reference/reliability.md §6): the work queue, the shards' frame with its writer, the channels and the
# loader's prefetching under ThreadSanitizer, which must report nothing.
#
#   tests/fault/tsan_queue.sh          builds these tests alone, without LibTorch, in build/tsan; then runs them
#
# Libraries that are not instrumented (Open MPI, HDF5, OpenCV) synchronise by means that the sanitizer cannot see: what
# happens inside them is left out. Needs two free cores and some ten minutes.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
case "${1:-}" in -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$root"
cmake --preset tsan -DDIVERGEN_TORCH=OFF > /dev/null
ranked=(test_mpi_work_queue test_mpi_world test_mpi_progress test_mpi_shared_dataset test_mpi_sharded)
single=(test_unit_augment test_fault_soak_augment)
ninja -C build/tsan "${ranked[@]}" "${single[@]}"

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 exitcode=66 second_deadlock_stack=1 ${TSAN_OPTIONS:-}"
failed=0
run() {
  echo "tsan_queue: $*"
  local log; log="$(mktemp)"
  "$@" > "$log" 2>&1 || { tail -n 60 "$log"; failed=1; }
  if grep -q 'WARNING: ThreadSanitizer' "$log"; then grep -A 30 'WARNING: ThreadSanitizer' "$log"; failed=1; fi
  rm -f "$log"
}
for test in "${single[@]}"; do run "build/tsan/tests/$test"; done
for test in "${ranked[@]}"; do
  for ranks in 1 2 3; do run mpiexec --oversubscribe --bind-to none -n "$ranks" "build/tsan/tests/$test"; done
done
[ "$failed" = 0 ] && echo "tsan_queue: no reports" || echo "tsan_queue: see above" >&2
exit "$failed"
