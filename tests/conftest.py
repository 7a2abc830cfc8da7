"""What all tests share: none of them reaches a server of the user's, a model hub or global state of DVC."""

import os

from hypothesis import settings

os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"  # nothing answers there: stages keep their records
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")
