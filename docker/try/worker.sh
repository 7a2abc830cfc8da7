#!/bin/sh
# In the worker image: two separate environments, git, and the commands of the nights.
set -eu
export HOME=/tmp AIRFLOW_HOME=/tmp/airflow
mkdir -p "$AIRFLOW_HOME"
test "$(id -u)" = 50000
git --version
airflow_entrypoint.sh version
"$ATSPEED_PYTHON" -c "import deepspeed, dvc, mlflow, torch, transformers; print('torch', torch.__version__)"
if "$ATSPEED_PYTHON" -c "import airflow" 2> /dev/null; then echo "Airflow is in the ML environment" >&2; exit 1; fi
for command in nightly.open_run nightly.run_stage recommendations.recommend_shard sweep.run_experiment promotion.gate; do
  "$ATSPEED_PYTHON" -m "tasks.$command" --help > /dev/null
done
