"""Which device is linked to which, and what follows from it. Pure Python, like the schedules."""
