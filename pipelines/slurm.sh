#!/usr/bin/env bash
#SBATCH --job-name=datus --cpus-per-task=16 --gpus=1 --time=12:00:00 --requeue
# One batch job for one run; a job that is killed and requeued goes on where it stopped.
#   sbatch pipelines/slurm.sh pipelines/cocostuff27.toml
set -euo pipefail
config=$1
for stage in features graphs segments embeddings clusters masks evaluate report; do
    srun datus run-stage "$stage" "$config"
done
