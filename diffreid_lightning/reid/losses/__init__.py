"""Re-ID losses, one per file: a pure function and the module around it."""
