"""How well tiny-sd follows its prompts."""
