"""A real Airflow, MLflow and PostgreSQL on this machine, on loopback: for `make airflow` and the integration test."""
