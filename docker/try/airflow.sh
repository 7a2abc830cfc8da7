#!/bin/sh
# In the Airflow image: torch is absent, and every DAG can be imported.
set -eu
export HOME=/tmp AIRFLOW_HOME=/tmp/airflow
mkdir -p "$AIRFLOW_HOME"
test "$(id -u)" = 50000
if python -c "import torch" 2> /dev/null; then echo "torch is in the Airflow image" >&2; exit 1; fi
airflow_entrypoint.sh version
ATSPEED_GPUS=2 airflow_entrypoint.sh init > /tmp/init.log 2>&1 || { tail -n 20 /tmp/init.log >&2; exit 1; }
airflow pools list --output plain 2> /dev/null | grep '^gpu *2'
python - <<'PY'
from airflow.dag_processing.dagbag import DagBag

bag = DagBag("/opt/atspeed/dags")
assert not bag.import_errors, bag.import_errors
print("DAGs:", ", ".join(sorted(bag.dags)))
assert len(bag.dags) >= 5
PY
