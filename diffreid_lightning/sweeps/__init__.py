"""Run W&B sweep files through Optuna on this machine: no account is needed."""
