"""Publish results on the Hugging Face hub and fetch them: backbones, personalized models, Diff-Person."""
