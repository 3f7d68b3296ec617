"""Write files and folders atomically, lock them, and keep the finished batches of a stage that may be killed."""
