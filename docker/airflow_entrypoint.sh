#!/bin/sh
# Starts an Airflow component with the secrets that are mounted as files. Airflow itself reads others through its *_CMD settings.
set -eu

secrets=${SECRETS:-/run/secrets}
if [ -r "$secrets/mlflow_password" ]; then
  MLFLOW_TRACKING_PASSWORD=$(cat "$secrets/mlflow_password")
  export MLFLOW_TRACKING_PASSWORD
fi
if [ -r "$secrets/airflow_passwords" ]; then  # Airflow opens this file for writing
  cp "$secrets/airflow_passwords" "$AIRFLOW_HOME/passwords.json"
  chmod 600 "$AIRFLOW_HOME/passwords.json"
fi
if [ "${1:-}" = init ]; then  # before the first start, and after every update
  airflow db migrate
  exec airflow pools set gpu "${ATSPEED_GPUS:-1}" "One slot per GPU" --include-deferred
fi
exec airflow "$@"
