"""What a night does around the DVC stages; one command a file, called by the DAGs in dags/ and by hand alike."""
