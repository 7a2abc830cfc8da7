#!/bin/sh
# Run by the postgres image on an empty volume: a role and its databases for Airflow, another for MLflow.
set -eu

make_role() {
  password=$(cat "/run/secrets/$1_database_password")
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set role="$1" --set password="$password" --username postgres <<'SQL'
CREATE ROLE :"role" LOGIN PASSWORD :'password';
SQL
}

make_role airflow
make_role mlflow
createdb --username postgres --owner airflow airflow
createdb --username postgres --owner mlflow mlflow
createdb --username postgres --owner mlflow mlflow_auth
