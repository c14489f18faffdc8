#!/usr/bin/env bash
#SBATCH --job-name=datus --cpus-per-task=16 --time=12:00:00 --requeue
# Part of a run on a SLURM cluster. submit.sh queues all parts of one; by hand:
#   sbatch --array=1-64 --gpus=1 pipelines/batch/slurm.sh pipelines/cocostuff27.toml 64
#   sbatch pipelines/batch/slurm.sh pipelines/cocostuff27.toml none
#   sbatch pipelines/batch/slurm.sh pipelines/cocostuff27.toml all
# The first is an array whose tasks do a share of the shards each, the second what needs all shards,
# the third all that is left. More options of datus run may follow. A job that is killed and
# requeued goes on where it stopped; --array=5 with the same number 64 runs one share again.
set -euo pipefail
config=$1
shares=$2
shift 2
case $shares in
    all) part=() ;;
    none) part=(--shards none) ;;
    *) part=(--shards "$SLURM_ARRAY_TASK_ID/$shares") ;;
esac
exec srun datus run "$config" "${part[@]}" "$@"
