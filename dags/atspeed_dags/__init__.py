"""What the DAG files share: the operator that runs a command, the policies every task follows, the alerts."""
