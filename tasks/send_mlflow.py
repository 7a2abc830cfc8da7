"""Sends the records in outbox/ to MLflow, after the server was down."""

import typer

from tasks.addresses import masked
from tasks.environment import Deployment
from tasks.stage import exit_codes, set_up_logging
from tasks.tracking import send_pending

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main() -> None:
    """Send the records in outbox/ to MLFLOW_TRACKING_URI, or to mlflow.db in this folder."""
    set_up_logging("send_mlflow")
    with exit_codes():
        print(f"{send_pending()} records sent to {masked(Deployment.from_environment().store_uri)}")


if __name__ == "__main__":
    app()
