"""Airflow, MLflow and PostgreSQL as processes on loopback, for `make airflow` and the integration tests."""
