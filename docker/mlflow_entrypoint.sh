#!/bin/sh
# Starts the MLflow server with the secrets that are mounted as files; none is an argument, which `ps` would show.
set -eu
umask 077

secrets=${SECRETS:-/run/secrets}
MLFLOW_BACKEND_STORE_URI=$(cat "$secrets/mlflow_database_url")
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$secrets/mlflow_secret_key")
MLFLOW_AUTH_CONFIG_PATH=/tmp/basic_auth.ini
export MLFLOW_BACKEND_STORE_URI MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = READ
database_uri = $(cat "$secrets/mlflow_auth_database_url")
admin_username = ${MLFLOW_ADMIN:-atspeed}
admin_password = $(cat "$secrets/mlflow_password")
INI
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers "${MLFLOW_WORKERS:-2}" \
  --serve-artifacts --artifacts-destination "${MLFLOW_ARTIFACTS:-/var/lib/mlflow/artifacts}" "$@"
