"""Stage 2: a Re-ID network scores generated images, rules choose among them, Diff-Person is written."""
