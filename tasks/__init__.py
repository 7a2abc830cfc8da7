"""The stages, one command per file, and the workflows around them, one package each."""

from tasks.threads import wait_briefly

wait_briefly()  # OpenMP reads it when torch is imported
