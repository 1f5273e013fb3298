#!/bin/bash
#SBATCH --job-name=taipan-mirror
#SBATCH --array=0-7
#SBATCH --time=06:00:00
#SBATCH --mem=1G
# A worker that was killed is run again with its number: sbatch --array=3 slurm.sh
taipan mirror sync conda-forge file:///shared/conda-forge --subdir noarch --subdir linux-64 \
  --worker "$SLURM_ARRAY_TASK_ID/8" --max-time 5h || [ $? -eq 6 ]
