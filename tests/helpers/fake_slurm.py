"""A stand-in for SLURM, to run pipelines/batch/submit.sh where there is none."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SBATCH = """#!/usr/bin/env bash
# Runs a job at once, the tasks of an array side by side; refuses what depends on one that failed.
echo "$*" >> "$FAKE/queued"
while [[ $1 == --* ]]; do
    case $1 in
        --array=1-*) last=${1#--array=1-} ;;
        --dependency=afterok:*) [ -e "$FAKE/ok-${1##*:}" ] || exit 1 ;;
    esac
    shift
done
job=$(wc -l < "$FAKE/queued")
for ((task = 1; task <= ${last:-1}; task++)); do
    SLURM_ARRAY_TASK_ID=${last:+$task} bash "$@" > "$FAKE/log-$job-$task" 2>&1 &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || failed=1; done
[ -n "$failed" ] || touch "$FAKE/ok-$job"
echo "$job;cluster"
"""

DATUS = """#!/usr/bin/env bash
echo "$*" >> "$FAKE/done"
[[ "$*" != *"$FAIL"* ]]
"""


def submit(fake: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """pipelines/batch/submit.sh where sbatch and srun are the scripts above."""
    fake.mkdir(exist_ok=True)
    for name, text in {"sbatch": SBATCH, "srun": '#!/usr/bin/env bash\nexec "$@"\n'}.items():
        (fake / name).write_text(text)
    if "FAIL" in environment:
        (fake / "datus").write_text(DATUS)
    for path in fake.glob("[sd]*"):
        path.chmod(0o755)
    places = f"{fake}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["pipelines/batch/submit.sh", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": places, "FAKE": str(fake), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
