#!/bin/bash
#SBATCH --job-name=preimage-invert
#SBATCH --array=0-7
#SBATCH --cpus-per-task=8
#SBATCH --time=4:00:00
#SBATCH --requeue

# Invert a feature store by an array of tasks, which write to one folder, each the images of every n-th range:
#
#     sbatch invert.sh photos.hog reconstructions/
#
# The arguments are the features, the folder, and any options of `preimage invert`. A task that is started again writes
# the same images again. To start one again by itself, pass on the number of all tasks:
#
#     SHARDS=8 sbatch --array=3 invert.sh photos.hog reconstructions/

set -euo pipefail

features=${1:?features are missing}
output=${2:?the folder for the images is missing}
shards=${SHARDS:-${SLURM_ARRAY_TASK_COUNT:?submit this script with sbatch --array=0-7}}
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
exec preimage invert "$features" --output "$output" --shard "$SLURM_ARRAY_TASK_ID/$shards" "${@:3}"
