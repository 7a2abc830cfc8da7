"""The registered recommender, as MLflow loads it: a models-from-code file.

It contains no weights. Its model_config specifies their commit (`tasks.deployment.weights` fetches and verifies them),
and the packages of this project must be installed where it is served.
"""

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from atspeed_core.errors import UserError
from atspeed_core.settings import DecodingConfig
from tasks.deployment.weights import fetch_model, load_recommender
from tasks.environment import Deployment
from tasks.serving.schema import DEFAULTS

OUTPUTS = ("items", "scores", "accepted_steps", "target_calls")


class RecommenderModel(PythonModel):
    """Histories in, lists out: `atspeed_core.Recommender` behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Fetch the weights of the commit in `context.model_config` and load them."""
        origin = context.model_config
        deployment = Deployment.from_environment()
        folder = fetch_model(
            origin["commit"],
            origin["method"],
            deployment.models,
            deployment.repository or origin["repository"],
            remote=deployment.named_dvc_remote or origin["remote"],
        )
        self.recommender = load_recommender(folder, DecodingConfig.model_validate(origin["decoding"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # hints would be its schema
        """One row per history: items, scores, accepted_steps, target_calls.

        Args:
            context: not used; MLflow's interface.
            model_input: DataFrame with the column `history`, item ids, oldest first.
            params: k, verification, and allowed_items (default: all items).

        Raises:
            MlflowException: the request is wrong; answered with HTTP 400.
        """
        request = {**DEFAULTS, **(params or {})}
        histories = [list(history) for history in model_input["history"]]
        try:
            recommended = self.recommender.recommend(
                histories,
                int(request["k"]),
                request["verification"],
                allowed_items=list(request["allowed_items"]) or None,
            )
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame({name: getattr(recommended, name) for name in OUTPUTS})


set_model(RecommenderModel())
