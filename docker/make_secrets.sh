#!/bin/sh
# Creates docker/secrets/ with one file per secret; existing ones stay: docker/make_secrets.sh
# The folder is closed to other users of this machine. The files in it can be read by any user id, because those of the
# containers differ from yours and compose mounts the files as they are.
set -eu
cd "$(dirname "$0")"
mkdir -p -m 0700 secrets
cd secrets
chmod 0700 .

create() { # name, content: written atomically, and only if there is no such file
  if [ ! -e "$1" ]; then
    (umask 077 && printf '%s' "$2" > "$1.new")
    chmod 0444 "$1.new"
    mv "$1.new" "$1"
  fi
}

for name in postgres_password airflow_database_password mlflow_database_password redis_password \
  airflow_secret_key airflow_jwt_secret airflow_admin_password mlflow_secret_key mlflow_password; do
  create "$name" "$(openssl rand -hex 32)"
done
create airflow_fernet_key "$(openssl rand 32 | base64 | tr '+/' '-_')"
create airflow_passwords "{\"admin\": \"$(cat airflow_admin_password)\"}"
create airflow_database_url "postgresql+psycopg://airflow:$(cat airflow_database_password)@postgres:5432/airflow"
create airflow_database_url_async "postgresql+asyncpg://airflow:$(cat airflow_database_password)@postgres:5432/airflow"
create airflow_result_backend "db+postgresql+psycopg://airflow:$(cat airflow_database_password)@postgres:5432/airflow"
create airflow_broker_url "redis://:$(cat redis_password)@redis:6379/0"
create mlflow_database_url "postgresql+psycopg2://mlflow:$(cat mlflow_database_password)@postgres:5432/mlflow"
create mlflow_auth_database_url "postgresql+psycopg2://mlflow:$(cat mlflow_database_password)@postgres:5432/mlflow_auth"
