"""Three initializations in six settings."""
