"""The nightly run around the DVC stages; one command per file, called by the DAG in dags/ and by hand alike."""
