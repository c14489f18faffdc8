#!/usr/bin/env bash
# A run on the Ray cluster that this machine is a node of, or that RAY_ADDRESS names:
#   pipelines/batch/ray_job.sh CONFIG [options of datus run]
#   ray job submit --address http://HEAD:8265 -- bash pipelines/batch/ray_job.sh /shared/run.toml
#   RAY_CPUS=8 RAY_GPUS=1 pipelines/batch/ray_job.sh pipelines/cocostuff27.toml
# RAY_CPUS and RAY_GPUS are what one worker takes, RAY_WAIT the seconds to wait for a first node with
# room. Lost workers and nodes are replaced; if the driver itself is lost, the same command goes on.
set -euo pipefail
config=$1
shift
exec datus run "$config" --executor ray --set "speed.ray_cpus=${RAY_CPUS:-1}" \
    --set "speed.ray_gpus=${RAY_GPUS:-0}" --set "speed.ray_wait=${RAY_WAIT:-0}" "$@"
