#!/usr/bin/env bash
#SBATCH --job-name=datus --cpus-per-task=16 --gpus=1 --time=12:00:00 --requeue
# The passes of the ViT on a GPU node, the rest wherever there are cores:
#   sbatch pipelines/slurm.sh pipelines/cocostuff27.toml features
#   sbatch --gpus=0 --dependency=afterok:JOB pipelines/slurm.sh pipelines/cocostuff27.toml report
# A job that is killed and requeued goes on where it stopped.
set -euo pipefail
config=$1
last=$2
srun datus run-stage "$last" "$config" --with-needs
