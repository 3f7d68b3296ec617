"""Provide training parts shared by several stages: resumable schedules, checks of weights and of restored states."""
