#!/bin/bash
#SBATCH --job-name=preimage-extract
#SBATCH --array=0-7
#SBATCH --cpus-per-task=8
#SBATCH --time=4:00:00
#SBATCH --requeue

# Extract features by an array of tasks, each of which writes every n-th shard to a store of its own:
#
#     sbatch extract.sh hog photos/ photos.hog --size 256
#     preimage merge photos.hog.shards/* -o photos.hog    # when all tasks have succeeded
#
# The arguments are a representation, images, the store, and any options of `preimage extract`. A task that is started
# again continues where it was killed. To start one again by itself, pass on the number of all tasks:
#
#     SHARDS=8 sbatch --array=3 extract.sh hog photos/ photos.hog --size 256

set -euo pipefail

representation=${1:?a representation is missing}
images=${2:?images are missing}
output=${3:?the store is missing}
shards=${SHARDS:-${SLURM_ARRAY_TASK_COUNT:?submit this script with sbatch --array=0-7}}
mkdir -p "$output.shards"
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
exec preimage extract "$representation" "$images" --output "$output.shards/$SLURM_ARRAY_TASK_ID" \
    --shard "$SLURM_ARRAY_TASK_ID/$shards" "${@:4}"
