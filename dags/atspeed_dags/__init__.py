"""What the DAG files share: the operator that runs a command, policies, assets, form fields and alerts."""
