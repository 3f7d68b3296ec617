"""Score generated images by a Re-ID network, select by rules, write Diff-Person."""
