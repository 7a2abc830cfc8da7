"""What the workflows of a deployment share: checkouts, DVC, fetched weights, MLflow's registry, presets."""
