#!/bin/bash
#SBATCH --job-name=taipan-mirror
#SBATCH --array=0-3
#SBATCH --time=06:00:00
#SBATCH --mem=1G
subdirs=(noarch linux-64 linux-aarch64 osx-arm64)
taipan mirror sync conda-forge file:///shared/conda-forge \
  --subdir "${subdirs[$SLURM_ARRAY_TASK_ID]}" --prune --max-time 5h || [ $? -eq 6 ]
