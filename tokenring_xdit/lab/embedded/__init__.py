"""The little world that the embedded model was trained on, and a judge of its pictures."""
