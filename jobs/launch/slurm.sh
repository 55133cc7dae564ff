#!/usr/bin/env bash
# Restyle on SLURM: one Ray cluster over all nodes of the allocation, the job on the first of them.
#
#     sbatch --nodes=4 --gpus-per-node=8 jobs/launch/slurm.sh manifest=/shared/tracks.csv output=/shared/out model=turbo
#
# Submit from the checkout, with .venv in it, on a file system that all nodes share. What follows the script's name
# goes to jobs.restyle. Two minutes before the time limit, and when a node fails, the job is queued again: the same
# command on the same folder does what is missing.
#SBATCH --job-name=restyle
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=restyle-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
export PATH="$PWD/.venv/bin:$PATH"

# Whoever reaches an open Ray port may run code: the cluster of this job has a token of its own.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
# Nodes of a large allocation do not come up together.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}"

# This script runs on the first node, and so does the job.
address="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):${RAY_PORT:-6379}"
pidfile=$(mktemp)
stopped=
trap 'stopped=yes' TERM

# shellcheck disable=SC2016  # expanded on the node, by the shell that becomes the job
srun --ntasks-per-node=1 --kill-on-bad-exit=0 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_NNODES" --disable-usage-stats \
    -- bash -c 'echo $$ > "$0"; export RAY_ADDRESS=$1; shift; exec python -m jobs.restyle "$@"' \
    "$pidfile" "$address" "$@" &
step=$!
status=0
wait "$step" || status=$?

if [[ $stopped ]]; then
    # To the job alone: a signal to the whole step would kill Ray under it.
    if [[ -s $pidfile ]]; then
        kill -INT "$(<"$pidfile")" || true
    fi
    # What takes longer is lost with the requeue, which kills it, and made again.
    for _ in {1..90}; do
        kill -0 "$step" 2>/dev/null || break
        sleep 1
    done
    if kill -0 "$step" 2>/dev/null; then
        status=143
    else
        status=0
        wait "$step" || status=$?
    fi
fi
rm -f "$pidfile"

# 0: every cover is there; 3: every track is done and some could not be made.
if [[ $stopped && $status -ne 0 && $status -ne 3 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
