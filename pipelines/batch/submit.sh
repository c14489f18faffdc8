#!/usr/bin/env bash
# Queue a whole run on a SLURM cluster, over a run folder that all nodes see:
#   pipelines/batch/submit.sh CONFIG SHARES [ROUNDS]
#   SHARE_OPTIONS="--gpus=1" pipelines/batch/submit.sh pipelines/cocostuff27.toml 64
# A round is an array of SHARES jobs, then one job for what needs all shards (the mean key, the
# clusters). 3 rounds suit the defaults, 4 are for de-noising; with fewer the last job does what is
# left. SHARE_OPTIONS and WHOLE_OPTIONS go to sbatch, for the jobs of the arrays and the others.
set -euo pipefail
config=$1
shares=$2
rounds=${3:-3}
script=$(dirname "$0")/slurm.sh
after=()

queue() {  # options of sbatch ... -- arguments of slurm.sh ...
    local options=() job
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    job=$(sbatch --parsable "${after[@]}" "${options[@]}" "$script" "$config" "$@")
    after=(--dependency="afterok:${job%%;*}" --kill-on-invalid-dep=yes)
    echo "$*: job $job"
}

read -r -a share_options <<<"${SHARE_OPTIONS:-}"
read -r -a whole_options <<<"${WHOLE_OPTIONS:-}"
for ((round = 1; round <= rounds; round++)); do
    queue --array="1-$shares" "${share_options[@]}" -- "$shares"
    if ((round < rounds)); then
        queue "${whole_options[@]}" -- none
    fi
done
queue "${whole_options[@]}" -- all
