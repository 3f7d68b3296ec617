"""Does filtering generated images pay, and by which score?"""
