#!/usr/bin/env bash
# The whole system on a laptop: sets up, builds, and runs the study configs/mini.toml on the embedded mini world.
#
#   jobs/mini.sh [--ranks N] [--out DIR] [--config FILE] [-- OPTIONS OF divergen run]
#
# Stop it whenever you like (Ctrl-C, even kill -9): the same command continues where it was.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ranks=2
out="runs/mini"
config="configs/mini.toml"
while [ $# -gt 0 ]; do
  case "$1" in
    --ranks) ranks="${2:?--ranks wants a number}"; shift 2 ;;
    --out) out="${2:?--out wants a folder}"; shift 2 ;;
    --config) config="${2:?--config wants a file}"; shift 2 ;;
    -h|--help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) echo "unknown option '$1'; see $0 --help" >&2; exit 64 ;;
  esac
done
case "$out" in /*) ;; *) out="$PWD/$out" ;; esac
case "$config" in /*) ;; *) [ -f "$config" ] && config="$PWD/$config" || config="$root/$config" ;; esac
"$root/tools/build.sh" divergen divergen-worker divergen-miniworld
cd "$root"
bin="build/release/bin"
"$bin/divergen-miniworld" --world data/mini --out "$out/world"
"$bin/divergen" run "$config" --ranks "$ranks" --set "run.dir=$out" \
  --set "data.train_json=$out/world/train.json" --set "data.train_images=$out/world/images" \
  --set "data.val_json=$out/world/val.json" --set "data.val_images=$out/world/images" \
  --set "data.categories=$out/world/categories.json" --set "data.area_stats=$out/world/area_mean_std2.json" "$@"
