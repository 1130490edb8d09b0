# shellcheck shell=bash
# What the batch scripts share: start the ranks, pass signals on, and decide what follows when they have ended.
# Sourced by slurm/*.sbatch; README.md beside it says what a user has to know.
#
#   DIVERGEN_CONFIG, DIVERGEN_TRAINING   what to run (or arguments of the script)
#   DIVERGEN_RUN          run directory (default: the configuration's)
#   DIVERGEN_BIN          folder of the programs (default: build/release/bin of the folder that sbatch was called in)
#   DIVERGEN_SITE         name of a file in sites/ to read, for scripts that `divergen submit` did not write
#   DIVERGEN_MODULES      modules to load
#   DIVERGEN_SRUN         more options of srun, in words
#   DIVERGEN_MPI          how srun starts MPI (default: pmix)
#   DIVERGEN_CONTAINER    none, apptainer or enroot; DIVERGEN_IMAGE and DIVERGEN_MOUNTS go with it
#   DIVERGEN_REQUEUE      yes, or no where the site has requeue off: then exit code 75 is for the chain's next job
#   DIVERGEN_MAX_RESTARTS how often at most (default: 200)
#   DIVERGEN_HOOK         command at the end of a stage
#   DIVERGEN_SUBMISSION   what belongs together: starts of other submissions do not count as a crash loop

divergen_log() { printf '[divergen %(%F %T)T] %s\n' -1 "$*"; }

divergen_die() {
  local code=$1
  shift
  divergen_log "error: $*"
  exit "$code"
}

# ---- where things are -----------------------------------------------------------------------------------------------

divergen_prepare() {
  local here module
  here=$(dirname "${BASH_SOURCE[0]}")
  if [ -n "${DIVERGEN_SITE:-}" ]; then
    [ -r "$here/sites/$DIVERGEN_SITE.env" ] || divergen_die 64 "there is no $here/sites/$DIVERGEN_SITE.env"
    # shellcheck disable=SC1090
    . "$here/sites/$DIVERGEN_SITE.env"
  fi
  if [ -n "${DIVERGEN_MODULES:-}" ]; then
    type module >/dev/null 2>&1 || divergen_die 64 "DIVERGEN_MODULES is set, and this machine has no command 'module'"
    for module in $DIVERGEN_MODULES; do
      module load "$module" || divergen_die 64 "cannot load the module $module"
    done
  fi
  : "${DIVERGEN_BIN:=${SLURM_SUBMIT_DIR:-$PWD}/build/release/bin}"
  : "${DIVERGEN_CONTAINER:=none}"
  divergen_container=()
  divergen_launch=(--mpi="${DIVERGEN_MPI:-pmix}" --kill-on-bad-exit=1 --cpu-bind=cores --distribution=block:block)
  # srun no longer takes this from sbatch (Slurm 22.05).
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || divergen_launch+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
  # Every rank sees all GPUs of its node and takes the one of its node-local rank: GPUs that are bound one by one
  # cannot reach each other directly.
  [ -z "${SLURM_GPUS_ON_NODE:-}" ] || divergen_launch+=(--gpu-bind=none)
  local -a words
  read -r -a words <<<"${DIVERGEN_SRUN:-}"
  divergen_launch+=("${words[@]}")
  case $DIVERGEN_CONTAINER in
    none)
      [ -x "$DIVERGEN_BIN/divergen-worker" ] || divergen_die 64 "there is no $DIVERGEN_BIN/divergen-worker: build it, or set DIVERGEN_BIN"
      divergen_programs="$DIVERGEN_BIN/" ;;
    apptainer)
      divergen_container=(apptainer exec)
      [ -z "${SLURM_GPUS_ON_NODE:-}" ] || divergen_container+=(--nv)
      divergen_container+=(--bind "${DIVERGEN_MOUNTS:-$PWD}" "${DIVERGEN_IMAGE:?DIVERGEN_CONTAINER wants DIVERGEN_IMAGE}")
      divergen_programs="" ;;
    enroot)
      divergen_launch+=(--container-image="${DIVERGEN_IMAGE:?DIVERGEN_CONTAINER wants DIVERGEN_IMAGE}"
        --container-mounts="${DIVERGEN_MOUNTS:-$PWD:$PWD}" --container-workdir="$PWD")
      divergen_programs="" ;;
    *) divergen_die 64 "DIVERGEN_CONTAINER is '$DIVERGEN_CONTAINER'; it may be none, apptainer or enroot" ;;
  esac
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
}

# The light program, on this node.
divergen_tool() {
  if [ "$DIVERGEN_CONTAINER" = enroot ]; then
    srun --overlap --nodes=1 --ntasks=1 --mpi=none --container-image="$DIVERGEN_IMAGE" \
      --container-mounts="${DIVERGEN_MOUNTS:-$PWD:$PWD}" --container-workdir="$PWD" divergen "$@" </dev/null
  else
    "${divergen_container[@]}" "${divergen_programs}divergen" "$@" </dev/null
  fi
}

divergen_find_run() {
  [ -n "${DIVERGEN_CONFIG:-}" ] || divergen_die 64 "no configuration; usage: sbatch slurm/STAGE.sbatch CONFIG [TRAINING]"
  [ -n "${DIVERGEN_RUN:-}" ] || DIVERGEN_RUN=$(divergen_tool run "$DIVERGEN_CONFIG" --print-config |
    sed -n '/^\[run\]/,/^\[/s/^dir = "\([^"]*\)".*/\1/p')
  [ -n "$DIVERGEN_RUN" ] || divergen_die 64 "the configuration $DIVERGEN_CONFIG names no run directory"
  mkdir -p "$DIVERGEN_RUN/slurm/starts" "$DIVERGEN_RUN/logs" || divergen_die 74 "cannot write into $DIVERGEN_RUN"
  divergen_submission=${DIVERGEN_SUBMISSION:-job-${SLURM_JOB_ID:-$$}}
}

# ---- one stage ------------------------------------------------------------------------------------------------------

divergen_banner() {
  divergen_log "======================================================================"
  divergen_log "$1: job ${SLURM_JOB_ID:-none}, start $((${SLURM_RESTART_COUNT:-0} + 1)) (SLURM_RESTART_COUNT=${SLURM_RESTART_COUNT:-0}), ${SLURM_NTASKS:-1} ranks on ${SLURM_JOB_NODELIST:-this machine}"
}

# Keeps a second job, or a local `divergen run`, out of what is at work. The system lets go of the locks of a job that
# has died; its last processes may need a moment.
divergen_lock() {
  local code
  exec {divergen_run_lock}>>"$DIVERGEN_RUN/.lock" {divergen_stage_lock}>>"$DIVERGEN_RUN/slurm/$1.lock" ||
    divergen_die 74 "cannot open the locks in $DIVERGEN_RUN"
  for lock in "--shared $divergen_run_lock" "--exclusive $divergen_stage_lock"; do
    # shellcheck disable=SC2086
    flock --timeout 60 $lock
    code=$?
    [ "$code" != 1 ] || divergen_die 74 "another divergen is at work in $DIVERGEN_RUN; wait for it, or stop it with divergen cancel"
    [ "$code" = 0 ] || divergen_log "warning: this file system has no locks; nothing keeps a second job out"
  done
}

# How much of the stage is committed, and why its last start stopped early: "units=12 stop=the time limit".
divergen_look() { divergen_tool status "$DIVERGEN_RUN" --brief "$1" 2>/dev/null || echo "units=-1 stop="; }

divergen_forward() {
  divergen_signal=$1
  divergen_signals=$((divergen_signals + 1))
  # srun passes USR2 on to all ranks. SIGTERM it would answer by killing them.
  [ -z "$divergen_srun" ] || kill -USR2 "$divergen_srun" 2>/dev/null || true
}

# Waits for srun, whatever comes between: a trap ends bash's wait before the program has ended.
divergen_wait() {
  local seen code
  while :; do
    seen=$divergen_signals
    wait "$divergen_srun"
    code=$?
    if [ "$code" -le 128 ] || [ "$seen" = "$divergen_signals" ]; then break; fi
  done
  divergen_srun=""
  return "$code"
}

# divergen_stage STAGE TRAINING [SRUN OPTIONS...]: exit code of the stage; 75 also when the ranks were killed while they
# were stopping.
divergen_stage() {
  local stage=$1 training=$2 code
  shift 2
  divergen_label=$stage${training:+.$training}
  divergen_signal="" divergen_signals=0 divergen_srun=""
  trap 'divergen_forward USR2' USR2
  trap 'divergen_forward TERM' TERM
  divergen_banner "$divergen_label"
  if [ "$stage" = report ]; then  # one process, which locks the run for itself
    divergen_before=0
    divergen_tool report "$DIVERGEN_CONFIG"
    return
  fi
  divergen_lock "$divergen_label"
  divergen_before=$(divergen_look "$divergen_label")
  local -a arguments=("$stage" "$DIVERGEN_CONFIG")
  [ -z "$training" ] || arguments+=(--training "$training")
  rm -f "$DIVERGEN_RUN/progress/$divergen_label.begun"
  srun "${divergen_launch[@]}" "$@" "${divergen_container[@]}" "${divergen_programs}divergen-worker" \
    "${arguments[@]}" </dev/null &
  divergen_srun=$!
  # A signal that came before there was anybody to pass it on to.
  [ -z "$divergen_signal" ] || divergen_forward "$divergen_signal"
  divergen_wait
  code=$?
  exec {divergen_run_lock}>&- {divergen_stage_lock}>&-
  if [ -n "$divergen_signal" ] && { [ "$code" -gt 128 ] || [ "$code" = 70 ]; }; then
    divergen_log "$divergen_label: ended with exit code $code while it was stopping (SIG$divergen_signal)"
    code=75
  fi
  return "$code"
}

# ---- what follows ---------------------------------------------------------------------------------------------------

divergen_hook() {
  [ -n "${DIVERGEN_HOOK:-}" ] || return 0
  DIVERGEN_STAGE=$divergen_label DIVERGEN_STATE=$1 DIVERGEN_EXIT=$2 DIVERGEN_RUN=$DIVERGEN_RUN \
    timeout 60 bash -c "$DIVERGEN_HOOK" </dev/null || divergen_log "warning: the hook ended with exit code $?"
}

divergen_note() { printf 'end %s %(%s)T %s %s\n' "$divergen_submission" -1 "$1" "$2" >>"$DIVERGEN_RUN/slurm/starts/$divergen_label"; }

# Starts in a row that committed nothing, of this submission.
divergen_fruitless() {
  awk -v mine="$divergen_submission" '$1 == "end" && $2 == mine { if ($5 == "fruitless") n++; else if ($5 == "progress") n = 0 }
    END { print n + 0 }' "$DIVERGEN_RUN/slurm/starts/$divergen_label"
}

divergen_begun() { [ -e "$DIVERGEN_RUN/progress/$divergen_label.begun" ]; }

divergen_words() {  # of an exit code
  case $1 in
    75) echo "stopped early${2:+ because of $2}" ;;
    70) echo "exit code 70: a bug or a lost rank" ;;
    *) if ! divergen_begun; then echo "the ranks did not begin; srun's lines above say why"
      elif [ "$1" -gt 128 ]; then echo "a rank was killed by signal $(($1 - 128))"; else echo "exit code $1"; fi ;;
  esac
}

# divergen_fail CODE MESSAGE: for good.
divergen_fail() {
  divergen_note "$1" failed
  divergen_hook failed "$1"
  divergen_die "$1" "$divergen_label: $2"
}

# The job goes back into the queue under its own id; jobs that depend on it keep waiting.
divergen_requeue() {
  local state pause
  if [ "${DIVERGEN_REQUEUE:-yes}" != yes ]; then
    divergen_log "$divergen_label: the next job of the chain goes on"
    exit 75
  fi
  state=$(squeue -h -j "$SLURM_JOB_ID" -o %T 2>/dev/null)
  if [ -n "$state" ] && [ "$state" != RUNNING ]; then
    divergen_log "$divergen_label: Slurm itself is ending this job ($state): left to it"
    exit 75
  fi
  trap 'exit 75' TERM
  for pause in 2 4 8 16 0; do
    if scontrol requeue "$SLURM_JOB_ID"; then
      divergen_log "$divergen_label: requeued"
      sleep 60 &  # Slurm ends this script
      wait $!
      exit 75
    fi
    sleep "$pause"
  done
  divergen_hook stopped 75
  divergen_die 75 "$divergen_label: Slurm does not requeue this job; submit again to continue (--chain N where requeue is off)"
}

# divergen_settle CODE: ends the script, unless all is done.
divergen_settle() {
  local code=$1 after before=${divergen_before#units=} stop verdict=fruitless count
  if [ "$code" = 0 ]; then
    divergen_note 0 progress
    divergen_log "$divergen_label: done"
    divergen_hook "done" 0
    return 0
  fi
  case $code in
    64 | 65 | 74 | 126 | 127) divergen_fail "$code" "ended with exit code $code; the lines above say why. What is committed stays" ;;
  esac
  after=$(divergen_look "$divergen_label")
  stop=${after#*stop=} after=${after#units=}
  after=${after%% *} before=${before%% *}
  if [ "$after" -lt 0 ] || [ "$after" -gt "$before" ]; then verdict=progress; fi
  # Who was sent away before anything could be committed is no loop.
  if [ "$verdict" = fruitless ] && [ "$code" = 75 ] && { [ "$stop" = SIGTERM ] || [ "$divergen_signal" = TERM ]; }; then verdict=excused; fi
  divergen_note "$code" "$verdict"
  divergen_log "$divergen_label: $(divergen_words "$code" "$stop"); committed: $before before, $after now"
  if [ -e "$DIVERGEN_RUN/slurm/CANCELLED" ] || [ -e "$DIVERGEN_RUN/STOP" ]; then
    divergen_log "$divergen_label: stopped as asked, not requeued; submit again to continue"
    divergen_hook stopped 75
    exit 75
  fi
  count=$(divergen_fruitless)
  if [ "$count" -ge 2 ]; then
    local remedy="look for the item in $DIVERGEN_RUN/logs/$divergen_label.rank-*.log"
    divergen_begun || remedy="see to the node that srun names, or leave it out with --sbatch --exclude=NODE"
    [ "$code" != 75 ] || remedy="a single shard or step takes longer than the job may run: raise --time, or lower plan.shard_items or train.checkpoint_every"
    divergen_fail 70 "crash loop: $count starts in a row committed nothing, the last one: $(divergen_words "$code" "$stop"). Not requeued; $remedy, then submit again"
  fi
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "${DIVERGEN_MAX_RESTARTS:-200}" ]; then
    divergen_fail 70 "restarted ${SLURM_RESTART_COUNT} times, which is enough (DIVERGEN_MAX_RESTARTS)"
  fi
  divergen_requeue
}

# A chain's earlier job has failed for good: this one does not try again.
divergen_heed_chain() {
  local code file=$DIVERGEN_RUN/slurm/starts/$1
  [ "${DIVERGEN_REQUEUE:-yes}" != yes ] && [ -r "$file" ] || return 0
  code=$(awk -v mine="$divergen_submission" '$1 == "end" && $2 == mine { last = $5 == "failed" ? $4 : "" } END { print last }' "$file")
  [ -z "$code" ] || divergen_die "$code" "$1: an earlier job of this chain has failed for good"
}

# divergen_main STAGE [CONFIG [TRAINING]]: a batch script's body.
divergen_main() {
  : "${DIVERGEN_CONFIG:=${2:-}}" "${DIVERGEN_TRAINING:=${3:-}}"
  divergen_prepare
  divergen_find_run
  divergen_heed_chain "$1${DIVERGEN_TRAINING:+.$DIVERGEN_TRAINING}"
  divergen_stage "$1" "$DIVERGEN_TRAINING"
  divergen_settle $?
}

# The stages up to the library in one heterogeneous job: group 0 computes, group 1 has no GPUs.
divergen_main_library() {
  : "${DIVERGEN_CONFIG:=${1:-}}"
  local stage group
  divergen_prepare
  divergen_find_run
  for stage in ${DIVERGEN_LIBRARY_STAGES:-plan generate annotate filter pool}; do
    divergen_heed_chain "$stage"
    group=0
    case $stage in plan | pool) group=1 ;; esac
    divergen_stage "$stage" "" --het-group=$group
    divergen_settle $?
  done
}

# divergen_main_scaling RANKS: the point of a scaling study in the folder DIVERGEN_RUN. The driver starts each run with
# srun itself and passes signals on to its ranks.
divergen_main_scaling() {
  divergen_prepare
  [ "$DIVERGEN_CONTAINER" = none ] || divergen_die 64 "scaling studies start srun from the job, which a container cannot: set DIVERGEN_CONTAINER to none"
  [ -n "${DIVERGEN_RUN:-}" ] || divergen_die 64 "DIVERGEN_RUN names no folder of a study"
  mkdir -p "$DIVERGEN_RUN/slurm/starts" || divergen_die 74 "cannot write into $DIVERGEN_RUN"
  divergen_submission=${DIVERGEN_SUBMISSION:-job-${SLURM_JOB_ID:-$$}}
  divergen_label="scaling.p$1" divergen_signal="" divergen_signals=0 divergen_srun=""
  divergen_point=$(printf '%s/points/p%06d' "$DIVERGEN_RUN" "$1")
  # Progress is a run that is done.
  divergen_look() { echo "units=$(find "$divergen_point" -name run.json 2>/dev/null | wc -l) stop="; }
  divergen_begun() { [ -d "$divergen_point" ]; }
  trap 'divergen_forward USR2' USR2
  trap 'divergen_forward TERM' TERM
  divergen_banner "$divergen_label"
  divergen_before=$(divergen_look)
  local code
  "${divergen_programs}divergen" scaling --out "$DIVERGEN_RUN" --point "$1" </dev/null &
  divergen_srun=$!
  [ -z "$divergen_signal" ] || divergen_forward "$divergen_signal"
  divergen_wait
  code=$?
  if [ -n "$divergen_signal" ] && { [ "$code" -gt 128 ] || [ "$code" = 70 ]; }; then code=75; fi
  divergen_settle "$code"
}
