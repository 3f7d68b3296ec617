"""W&B sweep files, run through Optuna on this machine: no account is needed."""
